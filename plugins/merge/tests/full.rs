//! Merges of full weights against a plain reference.

mod common;

use std::path::{Path, PathBuf};

use common::{Param, numbers, read_model, rng, rounded, write_model};
use headstart_disk::SystemDisk;
use headstart_disk::files::OutFolder;
use headstart_lm::{Unwatched, Watch};
use headstart_merge::MergeError;
use headstart_merge::full::{FullTerm, Method, memory_needed, merge_full};
use safetensors::Dtype;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// A small model: one tensor of more than one chunk, several kinds of number, one scalar.
fn base() -> Vec<Param> {
    let mut rng = rng(1);
    let mut param = |name: &str, dtype, shape: &[usize]| {
        Param::new(name, dtype, shape, numbers(&mut rng, shape.iter().product()))
    };
    vec![
        param(EMBEDDING, Dtype::BF16, &[300, 130]),
        param("model.layers.0.mlp.up_proj.weight", Dtype::BF16, &[40, 30]),
        param("model.layers.0.self_attn.q_proj.weight", Dtype::F16, &[30, 30]),
        param("model.norm.weight", Dtype::F32, &[30]),
        param("model.scale", Dtype::F32, &[]),
    ]
}

/// A model trained a little away from the base, stored in another kind of number here and there.
fn trained(seed: u64) -> Vec<Param> {
    let mut rng = rng(seed);
    let mut params = base();
    for p in &mut params {
        let step = numbers(&mut rng, p.data.len());
        let dtype = if p.name.ends_with("up_proj.weight") { Dtype::F32 } else { p.dtype };
        let data = p.data.iter().zip(step).map(|(x, s)| x + 0.1 * s * s * s).collect();
        *p = Param::new(&p.name, dtype, &p.shape, data);
    }
    params
}

struct Setup {
    folder: tempfile::TempDir,
    base: PathBuf,
    terms: Vec<FullTerm>,
}

impl Setup {
    fn new(weights: &[f64]) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let base_at = folder.path().join("base");
        write_model(&base_at, true, &base(), &[]);
        let mut terms = Vec::new();
        for (i, weight) in weights.iter().enumerate() {
            let at = folder.path().join(format!("m{i}"));
            // Every second model is sharded, otherwise than the base.
            let shards: &[usize] = if i % 2 == 1 { &[2, 3] } else { &[] };
            write_model(&at, true, &trained(10 + i as u64), shards);
            terms.push(FullTerm { name: format!("m{i}"), weight: *weight, folder: at, stream: i as u64 });
        }
        Self { folder, base: base_at, terms }
    }

    fn run(&self, method: Method, threads: usize) -> Result<PathBuf, MergeError> {
        let out = tempfile::tempdir_in(self.folder.path()).expect("folder").keep();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| {
            merge_full(
                &self.base,
                0.0,
                &self.terms,
                method,
                None,
                OutFolder { disk: &SystemDisk, path: &out },
                &Unwatched,
            )
        })?;
        Ok(out)
    }

    fn error(&self) -> String {
        let out = self.folder.path().join("out");
        std::fs::create_dir_all(&out).expect("folder");
        let error = merge_full(
            &self.base,
            0.0,
            &self.terms,
            Method::TaskArithmetic,
            None,
            OutFolder { disk: &SystemDisk, path: &out },
            &Unwatched,
        )
        .expect_err("refused");
        assert_eq!(std::fs::read_dir(&out).expect("folder").count(), 0, "checked before the first byte");
        error.to_string()
    }

    /// The second model, changed.
    fn spoil(&self, tied: bool, change: impl FnOnce(&mut Vec<Param>)) {
        let mut params = trained(11);
        change(&mut params);
        std::fs::remove_dir_all(&self.terms[1].folder).expect("folder");
        write_model(&self.terms[1].folder, tied, &params, &[]);
    }
}

/// Applies `f` to a base entry and all models' deltas at it, tensor by tensor.
fn reference(models: usize, mut f: impl FnMut(&str, f32, &[f32], usize) -> f32) -> Vec<Param> {
    let models: Vec<_> = (0..models).map(|i| trained(10 + i as u64)).collect();
    let mut result = base();
    for (t, p) in result.iter_mut().enumerate() {
        for i in 0..p.data.len() {
            let b = p.data[i];
            let deltas: Vec<f32> = models.iter().map(|m| m[t].data[i] - b).collect();
            p.data[i] = rounded(p.dtype, f(&p.name, b, &deltas, i));
        }
    }
    result
}

fn assert_same(out: &Path, expected: &[Param]) {
    let found = read_model(out);
    assert_eq!(found.len(), expected.len());
    for p in expected {
        assert!(found[&p.name] == p.bytes(), "{} differs", p.name);
    }
}

#[test]
fn task_arithmetic_is_f32_arithmetic_rounded_once() {
    let weights = [0.6, 0.5, -0.2];
    let setup = Setup::new(&weights);
    let out = setup.run(Method::TaskArithmetic, 2).expect("merge");
    let sum = |_: &str, b: f32, deltas: &[f32], _| {
        let weighted = deltas.iter().zip(weights).fold(0.0f32, |s, (d, w)| s + w as f32 * d);
        weighted + b
    };
    assert_same(&out, &reference(3, sum));
}

#[test]
fn a_linear_merge_is_the_weighted_average() {
    let weights = [1.0, 3.0];
    let setup = Setup::new(&weights);
    let out = setup.run(Method::Linear, 2).expect("merge");
    let average = |_: &str, b: f32, d: &[f32], _| 0.25 * d[0] + 0.75 * d[1] + b;
    assert_same(&out, &reference(2, average));
}

#[test]
fn ties_trims_elects_and_averages_as_by_sorting() {
    let (weights, density) = ([0.7f32, 0.2, -0.4], 0.3);
    let setup = Setup::new(&weights.map(f64::from));
    let out = setup.run(Method::Ties { density }, 2).expect("merge");

    let (base, models): (_, Vec<_>) = (base(), (0..3).map(|i| trained(10 + i)).collect());
    let threshold = |tensor: usize, model: usize| {
        let (b, m): (&Param, &Param) = (&base[tensor], &models[model][tensor]);
        let mut all: Vec<f32> = m.data.iter().zip(&b.data).map(|(x, y)| (x - y).abs()).collect();
        all.sort_by(|x, y| y.total_cmp(x));
        all[((density * all.len() as f64) as usize).max(1) - 1]
    };
    let thresholds: Vec<Vec<f32>> =
        (0..base.len()).map(|t| (0..3).map(|m| threshold(t, m)).collect()).collect();
    let expected = reference(3, |name, b, deltas, _| {
        let t = base.iter().position(|p| p.name == name).expect("known");
        let kept = |m: usize| if deltas[m].abs() >= thresholds[t][m] { weights[m] * deltas[m] } else { 0.0 };
        let kept: Vec<f32> = (0..3).map(kept).collect();
        let side = |sign: f32| kept.iter().enumerate().filter(move |(_, k)| **k * sign > 0.0);
        let total = |sign: f32| side(sign).fold(0.0f32, |s, (_, k)| s + k);
        let sign = if total(1.0) + total(-1.0) >= 0.0 { 1.0 } else { -1.0 };
        let weight = side(sign).fold(0.0f32, |s, (m, _)| s + weights[m].abs());
        b + if weight > 0.0 { total(sign) / weight } else { 0.0 }
    });
    assert_same(&out, &expected);
}

#[test]
fn dare_keeps_each_entry_rescaled_or_drops_it() {
    let setup = Setup::new(&[0.5]);
    let density = 0.25;
    let out = read_model(&setup.run(Method::Dare { density, seed: 3 }, 2).expect("merge"));
    let (mut kept, mut all) = (0usize, 0usize);
    let (base, model) = (base(), trained(10));
    for (b, m) in base.iter().zip(&model) {
        let found = Param { data: Vec::new(), ..b.clone() };
        let bytes = &out[&found.name];
        let size = bytes.len() / b.data.len();
        for i in 0..b.data.len() {
            let dropped = Param { data: vec![b.data[i]], ..b.clone() }.bytes();
            let scaled = b.data[i] + (0.5 / density) as f32 * (m.data[i] - b.data[i]);
            let scaled = Param { data: vec![scaled], ..b.clone() }.bytes();
            let here = &bytes[i * size..(i + 1) * size];
            assert!(here == dropped || here == scaled, "{} at {i}", b.name);
            if dropped != scaled {
                all += 1;
                kept += usize::from(here == scaled);
            }
        }
    }
    let share = kept as f64 / all as f64;
    assert!((share - density).abs() < 0.01, "kept {share}");
    let whole = setup.run(Method::Dare { density: 1.0, seed: 3 }, 2).expect("merge");
    assert_eq!(read_model(&whole), read_model(&setup.run(Method::TaskArithmetic, 2).expect("merge")));
}

#[test]
fn threads_do_not_change_a_byte_but_seeds_do() {
    let setup = Setup::new(&[0.6, -0.3]);
    let file = |out: PathBuf| std::fs::read(out.join("model.safetensors")).expect("file");
    let dare = |seed| Method::Dare { density: 0.5, seed };
    for method in [Method::TaskArithmetic, Method::Ties { density: 0.4 }, dare(1)] {
        let one = file(setup.run(method, 1).expect("merge"));
        assert_eq!(one, file(setup.run(method, 5).expect("merge")), "{method:?}");
    }
    assert_ne!(file(setup.run(dare(1), 2).expect("merge")), file(setup.run(dare(2), 2).expect("merge")));
}

#[test]
fn a_sharded_base_keeps_its_shards() {
    let setup = Setup::new(&[0.6, 0.5]);
    let single = read_model(&setup.run(Method::TaskArithmetic, 2).expect("merge"));
    std::fs::remove_file(setup.base.join("model.safetensors")).expect("file");
    write_model(&setup.base, true, &base(), &[1, 1, 3]);
    let out = setup.run(Method::TaskArithmetic, 2).expect("merge");
    assert_eq!(std::fs::read_dir(&out).expect("folder").count(), 3);
    assert_eq!(single, read_model(&out));
}

#[test]
fn models_that_do_not_fit_are_named_before_anything_is_written() {
    let setup = Setup::new(&[0.6, 0.5]);
    setup.spoil(true, |p| drop(p.remove(3)));
    let missing = setup.error();
    assert!(missing.contains("`m1` lacks `model.norm.weight`"), "{missing}");

    setup.spoil(true, |p| {
        p[1] = Param::new(&p[1].name.clone(), Dtype::F32, &[30, 40], vec![0.0; 1200]);
        p.push(Param::new("model.extra", Dtype::F32, &[1], vec![0.0]));
    });
    let wrong = setup.error();
    assert!(wrong.contains("[30, 40] in `m1` but [40, 30]") && wrong.contains("model.extra"), "{wrong}");

    setup.spoil(true, |_| {});
    let weights = setup.terms[1].folder.join("model.safetensors");
    let bytes = std::fs::read(&weights).expect("file");
    std::fs::write(&weights, &bytes[..bytes.len() - 100]).expect("file");
    let cut = setup.error();
    assert!(cut.contains("m1") && cut.contains("cut off"), "{cut}");

    std::fs::write(&weights, b"\xff\xff\xff\xff\xff\xff\xff\x7f").expect("file");
    assert!(setup.error().contains("model.safetensors"));
    std::fs::remove_file(&weights).expect("file");
    assert!(setup.error().contains("model.safetensors"));
}

#[test]
fn a_shared_output_layer_may_be_written_out_but_not_trained_apart() {
    let setup = Setup::new(&[0.6, 0.5]);
    let plain = read_model(&setup.run(Method::TaskArithmetic, 2).expect("merge"));
    let head = |p: &Param| Param { name: HEAD.into(), ..p.clone() };

    setup.spoil(true, |p| p.push(head(&p[0])));
    assert_eq!(plain, read_model(&setup.run(Method::TaskArithmetic, 2).expect("the same weights twice")));

    setup.spoil(false, |p| {
        let mut own = head(&p[0]);
        own.data[7] += 1.0;
        p.push(own);
    });
    assert!(setup.error().contains("output layer"));

    // The base has the layer, a model shares it with its embedding.
    let mut params = base();
    params.push(head(&params[0]));
    write_model(&setup.base, true, &params, &[]);
    setup.spoil(true, |_| {});
    let out = read_model(&setup.run(Method::TaskArithmetic, 2).expect("merge"));
    assert_eq!(out[HEAD], out[EMBEDDING]);
}

#[test]
fn integers_are_copied_where_all_agree() {
    let setup = Setup::new(&[0.6, 0.5]);
    let ids = |first: f32| Param::new("position_ids", Dtype::I64, &[3], vec![first, 1.0, 2.0]);
    let mut params = base();
    params.push(ids(0.0));
    write_model(&setup.base, true, &params, &[]);
    for (i, term) in setup.terms.iter().enumerate() {
        let mut params = trained(10 + i as u64);
        params.push(ids(0.0));
        std::fs::remove_dir_all(&term.folder).expect("folder");
        write_model(&term.folder, true, &params, &[]);
    }
    let out = read_model(&setup.run(Method::Ties { density: 0.5 }, 2).expect("merge"));
    assert_eq!(out["position_ids"], ids(0.0).bytes());
    setup.spoil(true, |p| p.push(ids(9.0)));
    assert!(setup.error().contains("position_ids"));
}

#[test]
fn weights_that_cancel_have_no_average() {
    let setup = Setup::new(&[0.5, -0.5]);
    assert!(setup.run(Method::Linear, 1).expect_err("undefined").to_string().contains("sum to 0"));
}

/// In the first chunk and behind it, in a model and in the base, whatever the method: no merge spreads what
/// is not finite, or hides it.
#[test]
fn numbers_that_are_not_finite_are_refused_with_their_tensor() {
    let methods = [
        Method::TaskArithmetic,
        Method::Linear,
        Method::Ties { density: 0.5 },
        Method::Dare { density: 0.5, seed: 1 },
    ];
    for (tensor, element) in [(0, 7), (0, 38_999), (2, 3), (4, 0)] {
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let setup = Setup::new(&[0.6, 0.5]);
            setup.spoil(true, |p| p[tensor].data[element] = broken);
            let name = base()[tensor].name.clone();
            for method in methods {
                let said = setup.run(method, 2).expect_err("refused").to_string();
                assert!(
                    said.contains(&format!("tensor `{name}` of `m1`"))
                        && said.contains(&format!("element {element}")),
                    "{method:?}: {said}"
                );
            }
        }
    }
    let setup = Setup::new(&[0.6]);
    let mut params = base();
    params[3].data[1] = f32::NAN;
    write_model(&setup.base, true, &params, &[]);
    let said = setup.run(Method::TaskArithmetic, 1).expect_err("refused").to_string();
    assert!(said.contains("tensor `model.norm.weight` of the base"), "{said}");
}

#[test]
fn a_merged_value_that_its_kind_cannot_hold_is_refused() {
    let setup = Setup::new(&[1e9]);
    let said = setup.run(Method::TaskArithmetic, 1).expect_err("beyond F16").to_string();
    assert!(said.contains("model.layers.0.self_attn.q_proj.weight") && said.contains("F16"), "{said}");
}

#[test]
fn memory_does_not_grow_with_the_model_and_a_limit_is_refused_up_front() {
    let setup = Setup::new(&[0.5]);
    let ties = Method::Ties { density: 0.5 };
    let need = memory_needed(4, ties, 2);
    assert!(need < 100 << 20, "{need}");
    let run = |limit| {
        merge_full(
            &setup.base,
            0.0,
            &setup.terms,
            ties,
            Some(limit),
            OutFolder { disk: &SystemDisk, path: setup.folder.path() },
            &Unwatched,
        )
    };
    assert!(matches!(run(1 << 20), Err(MergeError::Memory(_))));
}

#[test]
fn a_stop_is_heard() {
    struct Stop;
    impl Watch for Stop {
        fn cancelled(&self) -> bool {
            true
        }
    }
    let setup = Setup::new(&[0.5]);
    let out = tempfile::tempdir().expect("folder");
    let stopped = merge_full(
        &setup.base,
        0.0,
        &setup.terms,
        Method::TaskArithmetic,
        None,
        OutFolder { disk: &SystemDisk, path: out.path() },
        &Stop,
    );
    assert!(matches!(stopped, Err(MergeError::Cancelled)));
}
