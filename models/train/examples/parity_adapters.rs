//! Adapters as Headstart writes them, and the logits that it computes with them, for
//! `scripts/parity/peft_roundtrip.py` to hold against PEFT.
//!
//! `parity_adapters FIXTURES OUT`: for every model of FIXTURES (made by `scripts/parity/fixtures.py`) it
//! writes to OUT/NAME: `saved`, the fixture's adapter read and written again; `trained`, a new adapter
//! trained for ten steps; `converted`, the fixture's adapter turned into mlx-lm's format (`mlx`) and back;
//! `from_mlx`, the adapter that mlx-lm wrote, turned into PEFT's. Beside each lies `NAME.safetensors` with its logits on the fixture's `input_ids`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_disk::SystemDisk;
use headstart_lm::lora::{WriteAs, mlx_to_peft, peft_to_mlx};
use headstart_lm::{Adapter, Batch, Example, LoraSpec, Model, Net, Unwatched};
use headstart_train::{Method, TrainSpec, train_examples};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

type Any<T> = Result<T, Box<dyn Error>>;

fn input_ids(fixture: &Path) -> Any<Vec<Vec<u32>>> {
    let bytes = std::fs::read(fixture.join("expected.safetensors"))?;
    let all = SafeTensors::deserialize(&bytes)?;
    let ids = all.tensor("input_ids")?;
    let numbers: Vec<u32> =
        ids.data().chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(numbers.chunks(ids.shape()[1]).map(<[u32]>::to_vec).collect())
}

/// Writes the logits of a model with an adapter.
fn logits(model: &Arc<Model>, adapter: &Path, ids: &[Vec<u32>]) -> Any<()> {
    let weights = Adapter::load(adapter, &model.config)?;
    let net = Net::adapted(model, &weights);
    let batch = Batch::pack(ids.iter().map(Vec::as_slice));
    let rows: Vec<usize> = (0..batch.tokens()).collect();
    let logits = net.logits(&net.normed(&net.hidden(&batch, |_, _| {}), &rows));
    let shape = vec![ids.len(), ids[0].len(), model.config.vocab];
    let view = TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(&logits))?;
    safetensors::serialize_to_file([("logits", view)], None, &adapter.with_extension("safetensors"))?;
    Ok(())
}

#[expect(clippy::single_range_in_vec_init, reason = "one answer")]
fn train(model: &Arc<Model>, folder: &Path, out: PathBuf, ids: &[Vec<u32>]) -> Any<()> {
    let targets = ["q_proj", "v_proj", "gate_proj", "down_proj"].map(String::from).to_vec();
    let spec = TrainSpec {
        model: folder.into(),
        adapter: None,
        method: Method::Lora(LoraSpec { rank: 4, alpha: 8.0, rslora: true, targets }),
        data: Vec::new(),
        eval: Vec::new(),
        until: None,
        patience: None,
        learning_rate: 1e-2,
        weight_decay: None,
        clip: Some(1.0),
        dropout: 0.1,
        batch: 2,
        max_steps: 10,
        warmup: 0,
        cosine: false,
        eval_every: 5,
        max_tokens: 64,
        seed: 1,
        memory: None,
        resume: None,
        out,
        disk: Arc::new(SystemDisk),
    };
    let rows: Vec<Example> = ids
        .iter()
        .map(|ids| Example { ids: ids.clone(), answers: vec![6..ids.len()], bytes: 0, cut: false })
        .collect();
    let report = train_examples(&spec, model.clone(), &rows, &rows, &Unwatched)?;
    println!("  trained: loss {:.3} to {:.3}", report.start_loss, report.loss);
    Ok(())
}

fn main() -> Any<()> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [fixtures, out] = args.as_slice() else { return Err("usage: parity_adapters FIXTURES OUT".into()) };
    let mut cases: Vec<PathBuf> = std::fs::read_dir(fixtures)?.map(|e| Ok(e?.path())).collect::<Any<_>>()?;
    cases.sort();
    for case in cases.iter().filter(|c| c.join("expected.safetensors").exists()) {
        let out = out.join(case.file_name().unwrap_or_default());
        std::fs::create_dir_all(&out)?;
        println!("{}", out.display());
        let (given, ids) = (case.join("adapter"), input_ids(case)?);
        let model = Arc::new(Model::load(&case.join("model"))?);
        Adapter::load(&given, &model.config)?.save(&SystemDisk, &out.join("saved"), WriteAs::F32)?;
        train(&model, &case.join("model"), out.join("trained"), &ids)?;
        peft_to_mlx(&SystemDisk, &given, &out.join("mlx"))?;
        mlx_to_peft(&SystemDisk, &out.join("mlx"), &out.join("converted"))?;
        mlx_to_peft(&SystemDisk, &case.join("mlx"), &out.join("from_mlx"))?;
        for adapter in ["saved", "trained", "converted", "from_mlx"] {
            logits(&model, &out.join(adapter), &ids)?;
        }
    }
    Ok(())
}
