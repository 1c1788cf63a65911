//! The catalog: each pLLM's words with intervals, the map, the answers.

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use maud::html;
use serde::Deserialize;

use crate::app::App;
use crate::layout::{Page, Section, breakable, in_path, time};
use crate::reply::{blocking, no_run, page};
use crate::sessions::Visitor;

/// Runs among which the latest catalog is looked for.
const LOOKED_AT: usize = 200;

#[derive(Deserialize)]
pub(crate) struct Which {
    run: Option<String>,
}

pub(crate) async fn show(
    State(app): State<App>,
    Extension(visitor): Extension<Visitor>,
    Query(which): Query<Which>,
) -> Response {
    blocking(move || {
        let (rows, _) = app.index.newest(LOOKED_AT);
        let with: Vec<_> = rows.iter().filter(|r| r.has_catalog && r.outcome == "succeeded").collect();
        let id = which.run.clone().or_else(|| with.first().map(|r| r.id.clone()));
        let Some(id) = id else {
            let body = html! {
                h1 { "Catalog" }
                p.empty { "No run with a catalog has succeeded yet. A pipeline makes one with a " code { "decompose" } " stage." }
            };
            return page(Page { title: "Catalog".into(), section: Section::Catalog, visitor: Some(&visitor), live: None, body });
        };
        let run = match headstart_history::read(app.ws(), &id) {
            Ok(run) => run,
            Err(e) => return no_run(&e),
        };
        let made = match app.report(&run) {
            Ok(report) => headstart_report::catalog_section(&report),
            Err(why) => html! { p.bad { "The catalog cannot be read: " (why) } },
        };
        let is_empty = made.0.is_empty();
        let body = html! {
            h1 { "Catalog" }
            p.facts {
                span { (time(run.started_ms())) }
                span { "of run " a href=(format!("/runs/{}", in_path(&id))) { code { (breakable(&id)) } } }
            }
            @if is_empty { p.empty { "The catalog is no output of this run: " code { "output catalog = …" } " shows it here." } }
            (made)
            @if with.len() > 1 {
                section {
                    h2 { "Earlier" }
                    ul.plain {
                        @for row in with.iter().filter(|r| r.id != id).take(30) {
                            li { a href=(format!("/catalog?run={}", in_path(&row.id))) { (time(row.started_ms)) } " " (breakable(&row.pipeline)) }
                        }
                    }
                }
            }
        };
        page(Page { title: "Catalog".into(), section: Section::Catalog, visitor: Some(&visitor), live: None, body })
    })
    .await
}
