//! Devices: which there are, what each does, and what runs wait for; approve and revoke.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use headstart_driver::DeviceInfo;
use headstart_driver::devices::{DeviceRecord, DeviceState};
use maud::{Markup, html};
use serde::Deserialize;

use crate::app::App;
use crate::layout::{self, Page, Section, breakable, in_path, time, word};
use crate::reply::{blocking, page};
use crate::sessions::Visitor;

/// Live runs whose waits are shown.
const LOOKED_AT: usize = 50;

pub(crate) async fn show(State(app): State<App>, Extension(visitor): Extension<Visitor>) -> Response {
    blocking(move || {
        let hub = app.engine.hub();
        let records = match hub.registry().list() {
            Ok(records) => records,
            Err(e) => {
                let why = format!("The list of devices cannot be read: {e}");
                return layout::refusal(StatusCode::INTERNAL_SERVER_ERROR, &why);
            }
        };
        let infos: BTreeMap<String, DeviceInfo> =
            hub.devices().into_iter().map(|d| (d.name.clone(), d)).collect();
        let body = html! {
            h1 { "Devices" }
            @if records.is_empty() {
                p.empty { "No devices. " code { "headstart devices invite NAME" } " invites one." }
            }
            @for d in &records { (device(d, infos.get(&d.name), visitor.may_change())) }
            (waits(&app))
        };
        page(Page {
            title: "Devices".into(),
            section: Section::Devices,
            visitor: Some(&visitor),
            live: None,
            body,
        })
    })
    .await
}

fn device(d: &DeviceRecord, info: Option<&DeviceInfo>, may_change: bool) -> Markup {
    html! {
        section.device {
            h2 { (breakable(&d.name)) @if !d.label.is_empty() { span.sub { (d.label) } } }
            p.facts {
                (word(d.state.word()))
                @if let Some(ms) = d.last_seen_ms { span { "seen " (time(ms)) } }
                @if let Some(ms) = d.expires_ms { span { "invitation until " (time(ms)) } }
                @if !d.version.is_empty() { span { "version " (d.version) } }
            }
            @if d.must_pair_again { p.bad { "It joined with an earlier version, and must pair again." } }
            @if let Some(key) = &d.fingerprint { p { "Key " code { (key) } } }
            @if let Some(info) = info {
                @if info.running.is_empty() {
                    p.note { @if info.waiting { "Connected, waiting for work." } @else { "Not connected." } }
                } @else {
                    p { "Runs " @for (i, name) in info.running.iter().enumerate() { @if i > 0 { ", " } code { (breakable(name)) } } }
                }
                @if !info.kinds.is_empty() { p.note { "Can run: " (info.kinds.join(", ")) } }
            }
            @if may_change { (buttons(d)) }
        }
    }
}

fn buttons(d: &DeviceRecord) -> Markup {
    // Several may ask for one name: the key says which is meant.
    let which = d.fingerprint.as_ref().filter(|_| d.state == DeviceState::Pending).unwrap_or(&d.name);
    let may_join = matches!(d.state, DeviceState::Pending | DeviceState::Revoked) && d.fingerprint.is_some();
    html! {
        form.actions method="post" action="/devices" {
            input type="hidden" name="device" value=(which);
            @if may_join {
                button type="submit" name="action" value="approve" { "Approve" span.hidden { " " (d.name) } }
            }
            @if d.state != DeviceState::Revoked {
                button.danger type="submit" name="action" value="revoke" { "Revoke" span.hidden { " " (d.name) } }
            }
        }
        @if d.state == DeviceState::Pending { p.note { "Approve it only if the device shows this key." } }
    }
}

/// What live runs wait for on their devices.
fn waits(app: &App) -> Markup {
    let live = app.ws().runs().into_iter().rev().filter(|r| r.live).take(LOOKED_AT);
    let waits: Vec<_> = live
        .flat_map(|run| app.engine.hub().device_waits(&run.id).into_iter().map(move |w| (run.id.clone(), w)))
        .collect();
    html! {
        @if !waits.is_empty() {
            section #waits {
                h2 { "What runs wait for" }
                table {
                    thead { tr { th { "device" } th { "stages" } th { "why" } th { "run" } } }
                    tbody {
                        @for (run, w) in &waits {
                            tr {
                                th scope="row" { (w.device) }
                                td { @for (i, stage) in w.stages.iter().enumerate() { @if i > 0 { ", " } code { (breakable(stage)) } } }
                                td { (w.why.help(&w.device, None)) }
                                td { a href=(format!("/runs/{}", in_path(run))) { code { (breakable(run)) } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What an operator asks for.
#[derive(Deserialize)]
pub(crate) struct Wish {
    device: String,
    action: String,
}

pub(crate) async fn change(State(app): State<App>, Form(wish): Form<Wish>) -> Response {
    blocking(move || {
        let devices = app.engine.hub().registry();
        let done = match wish.action.as_str() {
            "approve" => devices.approve(&wish.device, None).map(drop),
            "revoke" => devices.revoke(&wish.device),
            _ => return layout::refusal(StatusCode::BAD_REQUEST, "There is no such action."),
        };
        match done {
            Ok(()) => Redirect::to("/devices").into_response(),
            Err(e) => layout::refusal(StatusCode::CONFLICT, &format!("That is not possible: {e}.")),
        }
    })
    .await
}
