//! The cache: what it saved, and what the workspace takes up.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use headstart_protocol::text::{bytes, counted, grouped};
use headstart_report::text::{percent, seconds};
use maud::{Markup, html};

use crate::app::App;
use crate::index::Row;
use crate::layout::{Page, Section, breakable, in_path, time};
use crate::reply::{blocking, page};
use crate::sessions::Visitor;

/// Runs that are summed up.
const SUMMED: usize = 500;
/// Runs that are listed.
const LISTED: usize = 20;

pub(crate) async fn show(State(app): State<App>, Extension(visitor): Extension<Visitor>) -> Response {
    blocking(move || {
        let (rows, _) = app.index.newest(SUMMED);
        let size = app.size();
        let saved: f64 = rows.iter().map(|r| r.saved_seconds).sum();
        let cached: u64 = rows.iter().map(|r| u64::from(r.counts.cached)).sum();
        let all: u64 = rows.iter().map(|r| u64::from(r.counts.total())).sum();
        let mut most: Vec<&Row> = rows.iter().map(AsRef::as_ref).filter(|r| r.saved_seconds > 0.0).collect();
        most.sort_by(|a, b| b.saved_seconds.total_cmp(&a.saved_seconds));
        let body = html! {
            h1 { "Cache" }
            dl.figures {
                (figure(&seconds(saved), "of computing not repeated"))
                @if all > 0 { (figure(&percent(cached as f64 / all as f64), "of stage instances came from the cache")) }
                (figure(&bytes(size.blob_bytes + size.cache_bytes + size.run_bytes), "on disk in all"))
            }
            p.note { "Over the latest " (counted(rows.len() as u64, "run")) ". Seconds are those that the stages had taken when they were computed." }
            section {
                h2 { "On disk" }
                table {
                    tbody {
                        tr { th scope="row" { "files of artifacts" } td.n { (grouped(size.blobs)) } td.n { (bytes(size.blob_bytes)) } }
                        tr { th scope="row" { "artifacts" } td.n { (grouped(size.manifests)) } td.n {} }
                        tr { th scope="row" { "runs" } td.n { (grouped(size.runs)) } td.n { (bytes(size.run_bytes)) } }
                        tr { th scope="row" { "cache of stages and rows" } td.n {} td.n { (bytes(size.cache_bytes)) } }
                    }
                }
            }
            @if !most.is_empty() {
                section {
                    h2 { "Where it saved most" }
                    table {
                        thead { tr { th { "run" } th { "started" } th.n { "cached" } th.n { "saved" } } }
                        tbody {
                            @for r in most.iter().take(LISTED) {
                                tr {
                                    th scope="row" { a href=(format!("/runs/{}", in_path(&r.id))) { (breakable(&r.pipeline)) } }
                                    td.time { (time(r.started_ms)) }
                                    td.n { (grouped(u64::from(r.counts.cached))) }
                                    td.n { (seconds(r.saved_seconds)) }
                                }
                            }
                        }
                    }
                }
            }
        };
        page(Page { title: "Cache".into(), section: Section::Cache, visitor: Some(&visitor), live: None, body })
    })
    .await
}

fn figure(number: &str, label: &str) -> Markup {
    html! { div { dt { (label) } dd { (number) } } }
}
