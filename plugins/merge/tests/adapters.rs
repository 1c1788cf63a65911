//! Merges of adapters against dense products.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{AdapterSpec, Dense, add, dense_of, distance, write_config};
use headstart_disk::SystemDisk;
use headstart_disk::files::OutFolder;
use headstart_lm::Unwatched;
use headstart_merge::MergeError;
use headstart_merge::adapter::{
    Adapter, AdapterReport, AdapterTerm, CONFIG_FILE, WEIGHTS_FILE, merge_adapters,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const Q: &str = "model.layers.0.self_attn.q_proj";
const DOWN: &str = "model.layers.0.mlp.down_proj";
const DOWN1: &str = "model.layers.1.mlp.down_proj";

/// Merges specs by weight and returns the result as a reader of the folder sees it.
fn merge(
    terms: &[(f64, &AdapterSpec)],
    rank: Option<usize>,
) -> (BTreeMap<String, Dense>, AdapterReport, Value, Adapter) {
    let folder = tempfile::tempdir().expect("folder");
    let mut list = Vec::new();
    for (i, (weight, spec)) in terms.iter().enumerate() {
        let at = folder.path().join(format!("term{i}"));
        spec.write(&at);
        list.push(AdapterTerm { name: format!("t{i}"), weight: *weight, folder: at });
    }
    let out = folder.path().join("out");
    std::fs::create_dir(&out).expect("folder");
    let report = merge_adapters(&list, rank, None, OutFolder { disk: &SystemDisk, path: &out }, &Unwatched)
        .expect("merge");
    let config = std::fs::read_to_string(out.join(CONFIG_FILE)).expect("config");
    let adapter = Adapter::read(&out).expect("what was written can be read");
    let dense = adapter.modules.iter().map(|(k, f)| (k.clone(), dense_of(f))).collect();
    (dense, report, serde_json::from_str(&config).expect("JSON"), adapter)
}

fn expected(terms: &[(f64, &AdapterSpec)]) -> BTreeMap<String, Dense> {
    let mut sum = BTreeMap::new();
    for (weight, spec) in terms {
        for (path, m) in spec.factors() {
            add(&mut sum, &path, *weight, &m);
        }
    }
    sum
}

fn assert_equal(found: &BTreeMap<String, Dense>, expected: &BTreeMap<String, Dense>, tolerance: f64) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (path, m) in expected {
        let off = distance(&found[path], m);
        assert!(off <= tolerance * m.norm_l2().max(1.0), "{path}: off by {off}");
    }
}

#[test]
fn different_ranks_alphas_rslora_and_targets_add_up_exactly() {
    let a = AdapterSpec::new(&[(Q, 6, 8, 2), (DOWN, 8, 12, 3)], 16.0, 1);
    let b = AdapterSpec { rslora: true, ..AdapterSpec::new(&[(Q, 6, 8, 4), (DOWN1, 8, 12, 4)], 6.0, 2) };
    let terms = [(0.6, &a), (-0.5, &b)];
    let (found, report, config, adapter) = merge(&terms, None);
    assert_equal(&found, &expected(&terms), 1e-6);
    assert_eq!(report.error, 0.0);
    let ranks: Vec<_> = report.modules.iter().map(|(k, m)| (k.as_str(), m.rank)).collect();
    assert_eq!(ranks, [(DOWN, 3), (Q, 6), (DOWN1, 4)]);
    assert!(adapter.modules.values().all(|f| f.scaling == 1.0), "PEFT scales the merge by exactly 1");
    assert_eq!(config["target_modules"], json!(["down_proj", "q_proj"]));
    // The two down_proj differ in rank, so their paths tell them apart.
    assert_eq!(config["rank_pattern"], json!({DOWN: 3, DOWN1: 4}));
    assert_eq!(config["rank_pattern"], config["alpha_pattern"]);
    assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(6), &json!(6)));
}

#[test]
fn one_adapter_with_weight_one_keeps_its_product() {
    for rslora in [false, true] {
        let a = AdapterSpec { rslora, ..AdapterSpec::new(&[(Q, 6, 8, 4), (DOWN, 8, 12, 2)], 8.0, 3) };
        let (found, ..) = merge(&[(1.0, &a)], None);
        assert_equal(&found, &a.factors(), if rslora { 1e-7 } else { 0.0 });
    }
}

#[test]
fn subtracting_an_adapter_from_itself_leaves_nothing() {
    let a = AdapterSpec::new(&[(Q, 6, 8, 4)], 8.0, 3);
    let (found, ..) = merge(&[(1.0, &a), (-1.0, &a)], None);
    assert!(found[Q].norm_max() < 1e-6, "{found:?}");
}

#[test]
fn an_adapter_that_peft_saved_keeps_its_product() {
    // PEFT 0.21 saved it with rsLoRA, r 6, alpha 12 and rank 3 for every down_proj.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peft-rslora");
    let bytes = std::fs::read(folder.join(WEIGHTS_FILE)).expect("fixture");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("whole");
    let tensor = |name: String| {
        let view = tensors.tensor(&name).expect("tensor");
        let data: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (view.shape().to_vec(), data)
    };
    let out = tempfile::tempdir().expect("folder");
    let term = AdapterTerm { name: "fixture".into(), weight: 1.0, folder };
    merge_adapters(&[term], None, None, OutFolder { disk: &SystemDisk, path: out.path() }, &Unwatched)
        .expect("merge");
    let merged = Adapter::read(out.path()).expect("readable");
    assert_eq!(merged.modules.len() * 2, tensors.len());
    for (path, f) in &merged.modules {
        let (sa, a) = tensor(format!("base_model.model.{path}.lora_A.weight"));
        let (sb, b) = tensor(format!("base_model.model.{path}.lora_B.weight"));
        let rank: usize = if path.ends_with("down_proj") { 3 } else { 6 };
        assert_eq!((sa[0], sb[1], f.rank()), (rank, rank, rank));
        let dense = common::product(&a, &b, rank, sa[1], sb[0], 12.0 / (rank as f64).sqrt());
        assert!(distance(&dense_of(f), &dense) < 1e-6 * dense.norm_l2(), "{path}");
    }
}

fn specs() -> impl Strategy<Value = (Vec<(f64, AdapterSpec)>, usize)> {
    let term = (1usize..=5, 1usize..=5, 1u32..=20, any::<bool>(), any::<u64>(), -2.0..2.0f64);
    let term = term.prop_map(|(rq, rd, alpha, rslora, seed, weight)| {
        let modules = [(Q, 5, 7, rq), (DOWN, 9, 4, rd)];
        (weight, AdapterSpec { rslora, ..AdapterSpec::new(&modules, f64::from(alpha), seed) })
    });
    (prop::collection::vec(term, 1..=4), 1usize..=8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(headstart_testkit::cases(48, 2_000)))]

    #[test]
    fn any_mix_equals_the_dense_sum_and_any_cut_is_the_best_one((terms, rank) in specs()) {
        let terms: Vec<_> = terms.iter().map(|(w, s)| (*w, s)).collect();
        let dense = expected(&terms);
        let (exact, ..) = merge(&terms, None);
        assert_equal(&exact, &dense, 1e-5);

        let (cut, report, _, adapter) = merge(&terms, Some(rank));
        let (mut whole, mut lost) = (0.0, 0.0);
        for (path, m) in &dense {
            prop_assert!(adapter.modules[path].rank() <= rank);
            let s = m.singular_values().expect("converges");
            let tail: f64 = s[rank.min(s.len())..].iter().map(|x| x * x).sum();
            whole += m.squared_norm_l2();
            lost += tail;
            let norm = m.norm_l2();
            prop_assert!((report.modules[path].error * norm - tail.sqrt()).abs() <= 1e-5 * norm, "{path}");
            prop_assert!((distance(&cut[path], m) - tail.sqrt()).abs() <= 1e-5 * norm.max(1.0), "{path}");
        }
        prop_assert!((report.error - (lost / whole).sqrt()).abs() <= 1e-5);
    }
}

#[test]
fn an_untrained_adapter_can_be_cut() {
    let folder = tempfile::tempdir().expect("folder");
    let (a, out) = (folder.path().join("a"), folder.path().join("out"));
    AdapterSpec::new(&[(Q, 6, 8, 4)], 8.0, 3).write(&a);
    std::fs::create_dir(&out).expect("folder");
    let zero = AdapterTerm { name: "a".into(), weight: 0.0, folder: a };
    let report =
        merge_adapters(&[zero], Some(2), None, OutFolder { disk: &SystemDisk, path: &out }, &Unwatched)
            .expect("merge");
    assert_eq!((report.error, report.modules[Q].rank), (0.0, 2));
    assert_eq!(dense_of(&Adapter::read(&out).expect("readable").modules[Q]).norm_max(), 0.0);
}

/// The error of merging two adapters of which `spoil` has changed the second.
fn error_after(spoil: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().expect("folder");
    let (a, b, out) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("out"));
    AdapterSpec::new(&[(Q, 6, 8, 2)], 8.0, 1).write(&a);
    AdapterSpec::new(&[(Q, 6, 8, 2)], 8.0, 2).write(&b);
    std::fs::create_dir(&out).expect("folder");
    spoil(&b);
    let term = |name: &str, folder| AdapterTerm { name: name.into(), weight: 0.5, folder };
    let terms = [term("friendly", a), term("formal", b)];
    let error = merge_adapters(&terms, None, None, OutFolder { disk: &SystemDisk, path: &out }, &Unwatched)
        .expect_err("spoilt");
    assert_eq!(std::fs::read_dir(&out).expect("folder").count(), 0, "nothing half-written");
    error.to_string()
}

#[test]
fn bad_adapters_are_named() {
    let weights = |b: &Path| b.join(WEIGHTS_FILE);
    let cut = error_after(|b| {
        let bytes = std::fs::read(weights(b)).expect("file");
        std::fs::write(weights(b), &bytes[..bytes.len() - 9]).expect("file");
    });
    assert!(cut.contains("adapter_model.safetensors") && cut.contains("cut off"), "{cut}");

    let gone = error_after(|b| std::fs::remove_file(weights(b)).expect("file"));
    assert!(gone.contains("adapter_model.safetensors"), "{gone}");

    let shape = error_after(|b| AdapterSpec::new(&[(Q, 6, 10, 2)], 8.0, 2).write(b));
    assert!(shape.contains("friendly") && shape.contains("formal") && shape.contains(Q), "{shape}");

    let rank = error_after(|b| {
        write_config(b, &json!({"peft_type": "LORA", "r": 7, "lora_alpha": 8, "target_modules": ["q_proj"]}));
    });
    assert!(rank.contains("rank 7") && rank.contains(Q), "{rank}");

    let dora = error_after(|b| {
        write_config(b, &json!({"peft_type": "LORA", "r": 2, "lora_alpha": 8, "use_dora": true}));
    });
    assert!(dora.contains("use_dora"), "{dora}");

    let half = error_after(|b| {
        let name = format!("base_model.model.{Q}.lora_A.weight");
        common::save_f32(&weights(b), &[(name, vec![2, 8], vec![0.0; 16])]);
    });
    assert!(half.contains("no lora_B"), "{half}");

    let nan = error_after(|b| {
        let name = |h: &str| format!("base_model.model.{Q}.lora_{h}.weight");
        let mut a = vec![0.0; 16];
        a[11] = f32::NAN;
        common::save_f32(&weights(b), &[(name("A"), vec![2, 8], a), (name("B"), vec![6, 2], vec![0.0; 12])]);
    });
    assert!(nan.contains("NaN at row 1, column 3"), "{nan}");

    let magnitude = error_after(|b| {
        let name = format!("base_model.model.{Q}.lora_magnitude_vector");
        common::save_f32(&weights(b), &[(name, vec![6], vec![0.0; 6])]);
    });
    assert!(magnitude.contains("lora_magnitude_vector"), "{magnitude}");
}

#[test]
fn a_memory_limit_is_kept_or_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let spec = AdapterSpec::new(&[(Q, 64, 64, 8)], 8.0, 1);
    spec.write(&folder.path().join("a"));
    let term = AdapterTerm { name: "a".into(), weight: 1.0, folder: folder.path().join("a") };
    let refused = merge_adapters(
        &[term],
        None,
        Some(1000),
        OutFolder { disk: &SystemDisk, path: folder.path() },
        &Unwatched,
    )
    .expect_err("too little");
    assert!(matches!(refused, MergeError::Memory(_)), "{refused}");
}
