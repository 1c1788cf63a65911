use serde_json::json;

use super::*;

fn path(s: &str) -> Vec<String> {
    s.split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect()
}

const KNOWN: &dyn Fn(&str) -> bool = &|n| ["kind", "warm"].contains(&n);

/// What leaves of a value of a stage that declares a loss, and rows as a detail.
fn left(ty: &Type, value: &Json, details: bool) -> Result<Json, ArtifactError> {
    let rows = Number { detail: true, ..Number::new("rows", 0.0, 1e6) };
    let declared = [Number::new("loss", 0.0, 100.0), rows, Number::unbounded("words")];
    Projection { known: KNOWN, numbers: Numbers::Declared(&declared), mix: true, details }.of(ty, value)
}

/// Whether a text is anywhere in a value, in keys too.
fn holds(value: &Json, text: &str) -> bool {
    value.to_string().contains(text)
}

#[test]
fn only_declared_numbers_leave_and_only_so_much_of_them() {
    let m = json!({ "loss": 1.2345, "rows": 41907, "words": 3, "my_name_is_Ann": 1, "reached": true });
    assert_eq!(left(&Type::Metrics, &m, false), Ok(json!({ "loss": 1.2 })));
    assert_eq!(left(&Type::Metrics, &m, true), Ok(json!({ "loss": 1.2, "rows": 42000 })));
    assert_eq!(left(&Type::Metrics, &json!({ "loss": 1e9 }), false), Ok(json!({ "loss": 100 })));
    let with_text = json!({ "loss": 1.5, "who": "Ann" });
    assert!(left(&Type::Metrics, &with_text, true).is_err(), "not metrics at all");
    let p = json!({ "format": "lora", "metrics": m, "curve": [[0, 2.0]], "about": { "name": "Ann" },
        "modules": { "Ann": { "rank": 1, "error": 0.0 } } });
    let expected = json!({ "format": "lora", "metrics": { "loss": 1.2 }, "curve": [[0, 2.0]] });
    assert_eq!(left(&Type::Pllm, &p, false), Ok(expected));
}

/// Every field of a selection has a value, and every text in it is Ann's but for public names.
fn selection() -> Json {
    let word = |w: &str| json!({ "word": w, "coefficient": 0.523, "low": 0.1, "high": 0.9 });
    let forecast = crate::artifacts::Expected {
        share_saved: 0.543_21,
        steps_saved: 123.0,
        seconds_saved: Some(1.0),
        seconds_saved_low: Some(1.0),
        seconds_saved_high: Some(1.0),
        break_even_bytes_per_second: Some(1.0),
        ..Default::default()
    };
    json!({
        "pllm_name": "kind", "style": "Ann", "is_mix": true, "abstained": false, "confidence": 0.7512, "strength": 0.5,
        "strategy": "Ann", "mix": { "kind": 0.512, "Ann": 0.5 }, "distances": { "Ann": 1.0, "kind": 0.5 },
        "user": { "explained": 0.5, "words": [word("Ann"), word("warm"), word("kind"), word("warm"), word("kind")] },
        "sentence": "Ann", "forecast": forecast, "n": 12,
        "verified": { "loss": { "Ann": 1.0, "kind": 2.0 }, "share": { "Ann": 0.5, "kind": 0.5 }, "base_loss": 3.0,
            "mix_loss": 1.0, "mix_share": 0.5, "rows": 6, "held_back": true },
        "cost": { "forward_passes": 7, "bytes": 1234, "catalog_bytes": 5, "seconds": 1.5 },
    })
}

#[test]
fn a_selection_leaves_without_texts_and_unknown_names() {
    let most = left(&Type::Selection, &selection(), true).expect("a selection");
    assert!(!holds(&most, "Ann"), "{most}");
    let read = Selection::read(&most).expect("still a selection");
    assert_eq!((read.pllm_name.as_deref(), read.mix["kind"], read.n), (Some("kind"), 0.51, 0));
    assert_eq!((read.user.words.len(), read.verified.map(|v| v.loss["kind"])), (4, Some(2.0)));
    assert_eq!(read.cost.bytes, 1200, "rounded");

    let less = left(&Type::Selection, &selection(), false).expect("a selection");
    let expected = json!({
        "pllm_name": "kind", "is_mix": true, "abstained": false, "confidence": 0.75, "strength": 0.5, "mix": { "kind": 0.51 },
        "user": { "explained": 0.5, "words": [
            { "word": "warm", "coefficient": 0.52, "low": 0.1, "high": 0.9 },
            { "word": "kind", "coefficient": 0.52, "low": 0.1, "high": 0.9 },
            { "word": "warm", "coefficient": 0.52, "low": 0.1, "high": 0.9 },
        ] },
        "forecast": { "share_saved": 0.54, "share_saved_low": 0.0, "share_saved_high": 0.0, "steps_scratch": 0.0,
            "steps_saved": 120.0 },
    });
    assert_eq!(less, expected);
    Selection::read(&less).expect("still a selection");

    let nobody =
        Projection { known: &|_| false, numbers: Numbers::Declared(&[]), mix: false, details: false };
    let nothing = nobody.of(&Type::Selection, &selection()).expect("a selection");
    assert_eq!((nothing.get("pllm_name"), nothing.get("mix")), (None, None));
    assert_eq!(nothing["user"]["words"], json!([]), "a number without its word says nothing");
}

/// A field that is added to a selection is decided on here.
#[test]
fn every_field_of_a_selection_is_listed_or_stays() {
    const STAYS: &[&str] = &["strategy", "sentence", "n"];
    fn leaves(at: &mut Vec<String>, value: &Json, out: &mut Vec<Vec<String>>) {
        let mut each = |key: String, value: &Json| {
            at.push(key);
            leaves(at, value, out);
            at.pop();
        };
        match value {
            Json::Object(map) => map.iter().for_each(|(k, v)| each(k.clone(), v)),
            Json::Array(items) => items.iter().for_each(|v| each("[]".into(), v)),
            _ => out.push(at.clone()),
        }
    }
    let mut all = Vec::new();
    leaves(&mut Vec::new(), &selection(), &mut all);
    for path in &all {
        let listed = SELECTION.iter().any(|f| f.path.len() == path.len() && f.matches(path));
        assert_ne!(listed, STAYS.contains(&path.join(".").as_str()), "{path:?}");
    }
    for field in SELECTION {
        assert!(all.iter().any(|p| p.len() == field.path.len() && field.matches(p)), "{:?}", field.path);
    }
}

#[test]
fn every_number_and_every_chosen_name_counts() {
    let counted = |ty: &Type, p: &str, value: Json| count(ty, &path(p), &value);
    assert_eq!(counted(&Type::Metrics, "", json!({ "loss": 1, "bleu": 2 })), ["bleu", "loss"]);
    assert_eq!(counted(&Type::Metrics, "loss", json!(1)), ["loss"]);
    assert_eq!(counted(&Type::Metrics, "loss", Json::Null), ["loss (none)"]);
    let mix = json!({ "kind": 0.5, "warm": 0.5 });
    let expected = ["mix.kind", "mix.warm", "mix.kind (name)", "mix.warm (name)"];
    assert_eq!(counted(&Type::Selection, "mix", mix), expected);
    let whole =
        json!({ "pllm_name": "kind", "is_mix": true, "user": { "words": [{ "word": "warm", "low": 1 }] } });
    let expected = ["is_mix", "pllm_name", "user.words.0.low", "user.words.0.word"];
    assert_eq!(counted(&Type::Selection, "", whole), expected);
}

#[test]
fn details_are_told_apart() {
    let numbers = of_kind("evaluate");
    for (ty, p, detail) in [
        (Type::Metrics, "loss", false),
        (Type::Metrics, "tokens", true),
        (Type::Metrics, "", false),
        (Type::Selection, "confidence", false),
        (Type::Selection, "cost", true),
        (Type::Selection, "cost.seconds", true),
        (Type::Selection, "forecast", false),
        (Type::Selection, "forecast.bytes", true),
        (Type::Selection, "pllm", false),
    ] {
        assert_eq!(is_detail(&ty, &path(p), &numbers), detail, "{ty} .{p}");
    }
}

#[test]
fn nothing_of_other_types_leaves() {
    for ty in [Type::Dataset, Type::Responses, Type::Divergence, Type::Catalog, Type::Space, Type::Model] {
        assert_eq!(left(&ty, &json!({ "loss": 1.0, "rows": 3 }), true), Ok(Json::Null), "{ty}");
        assert_eq!(class_of(&ty, &[]), None);
    }
    assert_eq!(class_of(&Type::Pllm, &path("base")), None);
    assert_eq!(class_of(&Type::Selection, &path("pllm.base")), None);
    assert_eq!(class_of(&Type::Text, &[]), None);
}

#[test]
fn files_leave_under_published_names_only() {
    for name in ["adapter_model.safetensors", "model-00001-of-00002.safetensors", "config.json"] {
        assert!(is_model_file(name), "{name}");
    }
    for name in ["Ann.safetensors", "model-Ann-of-00002.safetensors", "rows.jsonl", "a/config.json", ""] {
        assert!(!is_model_file(name), "{name}");
    }
    let all = Projection { known: KNOWN, numbers: Numbers::Public, mix: true, details: true };
    assert!(all.reference("base") && all.reference("parent:kind"));
    assert!(!all.reference("parent:Ann") && !all.reference("Ann"));
}

#[test]
fn paths_name_metrics_of_the_stage() {
    assert_eq!(released_metric(&Type::Metrics, &path("loss")), Some("loss"));
    assert_eq!(released_metric(&Type::Pllm.optional(), &path("metrics.loss")), Some("loss"));
    assert_eq!(released_metric(&Type::Selection, &path("forecast.share_saved")), None);
    assert_eq!(released_metric(&Type::Metrics, &[]), None);
}
