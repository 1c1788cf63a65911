//! What a monitoring system reads: `/metrics`, `/healthz`, `/readyz`.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use headstart_driver::devices::DeviceState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::app::App;
use crate::reply::blocking;

/// Runs that are counted: the newest.
const COUNTED: usize = 500;

type Level = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPipeline {
    pipeline: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSchedule {
    file: String,
    schedule: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDevice {
    device: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: String,
}

/// The process answers.
pub(crate) async fn alive() -> &'static str {
    "ok\n"
}

/// The server does its work.
pub(crate) async fn ready(State(app): State<App>) -> Response {
    if app.closing.is_cancelled() || !app.health.is_ready(app.now_ms()) {
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready: schedules are not being served\n")
            .into_response();
    }
    "ok\n".into_response()
}

pub(crate) async fn metrics(State(app): State<App>) -> Response {
    blocking(move || {
        let mut registry = Registry::with_prefix("headstart");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the engine", build);
        runs(&app, &mut registry);
        schedules(&app, &mut registry);
        devices(&app, &mut registry);
        sizes(&app, &mut registry);
        let mut text = String::new();
        match encode(&mut text, &registry) {
            Ok(()) => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                ([(header::CONTENT_TYPE, kind)], text).into_response()
            }
            Err(e) => {
                tracing::error!("the metrics cannot be written: {e}");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    })
    .await
}

fn runs(app: &App, registry: &mut Registry) {
    let (rows, _) = app.index.newest(COUNTED);
    let by_state = Family::<OfState, Gauge>::default();
    let stages = Family::<OfState, Gauge>::default();
    let took = Family::<OfPipeline, Level>::default();
    let started = Family::<OfPipeline, Level>::default();
    let failed = Family::<OfPipeline, Gauge>::default();
    let saved = Level::default();
    let mut last: BTreeMap<&str, bool> = BTreeMap::new();
    for row in &rows {
        by_state.get_or_create(&OfState { state: row.outcome.to_owned() }).inc();
        saved.inc_by(row.saved_seconds);
        if row.outcome == "running" {
            let c = &row.counts;
            let states =
                [("waiting", c.waiting), ("ready", c.ready), ("running", c.running), ("failed", c.failed)];
            for (state, n) in states {
                stages.get_or_create(&OfState { state: state.to_owned() }).inc_by(i64::from(n));
            }
        } else if row.problem.is_none() && !last.contains_key(row.pipeline.as_str()) {
            // The first one is the newest.
            last.insert(&row.pipeline, true);
            let of = OfPipeline { pipeline: row.pipeline.clone() };
            took.get_or_create(&of).set(row.seconds);
            started.get_or_create(&of).set(row.started_ms as f64 / 1000.0);
            failed.get_or_create(&of).set(i64::from(row.outcome != "succeeded"));
        }
    }
    registry.register("runs", "The newest 500 runs, by state", by_state);
    registry.register("live_stage_instances", "Stage instances of running runs, by state", stages);
    let seconds = Unit::Seconds;
    registry.register_with_unit(
        "last_run_duration",
        "How long the last ended run of a pipeline took",
        seconds,
        took,
    );
    registry.register_with_unit(
        "last_run_start_timestamp",
        "When the last ended run of a pipeline began",
        Unit::Seconds,
        started,
    );
    registry.register("last_run_failed", "1 where the last ended run of a pipeline did not succeed", failed);
    registry.register_with_unit(
        "cache_saved",
        "Computing that the newest 500 runs did not repeat",
        Unit::Seconds,
        saved,
    );
}

fn schedules(app: &App, registry: &mut Registry) {
    let next = Family::<OfSchedule, Level>::default();
    let paused = Family::<OfSchedule, Gauge>::default();
    let waiting = Family::<OfSchedule, Gauge>::default();
    let skipped = Family::<OfSchedule, Gauge>::default();
    let succeeded = Family::<OfSchedule, Level>::default();
    let unreadable: Gauge = Gauge::default();
    let now = app.now();
    for state in app.folder.list() {
        let Ok(s) = state else {
            unreadable.inc();
            continue;
        };
        let of = OfSchedule { file: s.file.clone(), schedule: s.name.clone() };
        if let Some(policy) = s.policy.as_ref().filter(|_| !s.paused)
            && let Some((_, starts)) = policy.next(&s.schedule, now)
        {
            next.get_or_create(&of).set(starts.as_second() as f64);
        }
        paused.get_or_create(&of).set(i64::from(s.paused));
        waiting.get_or_create(&of).set(i64::try_from(s.waiting.len()).unwrap_or(i64::MAX));
        skipped.get_or_create(&of).set(i64::try_from(s.skipped()).unwrap_or(i64::MAX));
        if let Some(at) = s.last_success() {
            succeeded.get_or_create(&of).set(at.as_second() as f64);
        }
    }
    registry.register_with_unit(
        "schedule_next_start_timestamp",
        "When a schedule starts its next run",
        Unit::Seconds,
        next,
    );
    registry.register("schedule_paused", "1 where a schedule is paused", paused);
    registry.register("schedule_waiting_fires", "Fires that wait for earlier runs", waiting);
    registry.register(
        "schedule_skipped_fires",
        "Fires that were skipped, in the last 500 entries of its history",
        skipped,
    );
    registry.register_with_unit(
        "schedule_last_success_timestamp",
        "When a run of a schedule succeeded last",
        Unit::Seconds,
        succeeded,
    );
    registry.register("schedules_unreadable", "Schedules whose state cannot be read", unreadable);
}

fn devices(app: &App, registry: &mut Registry) {
    let by_state = Family::<OfState, Gauge>::default();
    let seen = Family::<OfDevice, Level>::default();
    let running = Family::<OfDevice, Gauge>::default();
    for d in app.engine.hub().registry().list().unwrap_or_default() {
        by_state.get_or_create(&OfState { state: d.state.word().to_owned() }).inc();
        if let (DeviceState::Approved, Some(ms)) = (d.state, d.last_seen_ms) {
            seen.get_or_create(&OfDevice { device: d.name.clone() }).set(ms as f64 / 1000.0);
        }
    }
    for d in app.engine.hub().devices() {
        let n = i64::try_from(d.running.len()).unwrap_or(i64::MAX);
        running.get_or_create(&OfDevice { device: d.name }).set(n);
    }
    registry.register("devices", "Devices, by state", by_state);
    registry.register_with_unit(
        "device_last_seen_timestamp",
        "When an approved device was heard of last",
        Unit::Seconds,
        seen,
    );
    registry.register("device_running_stages", "Stage instances that a device runs", running);
}

fn sizes(app: &App, registry: &mut Registry) {
    let bytes = Family::<OfKind, Gauge>::default();
    let size = app.size();
    for (kind, n) in [("artifacts", size.blob_bytes), ("runs", size.run_bytes), ("cache", size.cache_bytes)] {
        bytes.get_or_create(&OfKind { kind: kind.to_owned() }).set(i64::try_from(n).unwrap_or(i64::MAX));
    }
    registry.register_with_unit("workspace_size", "What the workspace takes up on disk", Unit::Bytes, bytes);
}
