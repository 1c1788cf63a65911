//! A training's progress on disk: one safetensors file with everything that its next step depends
//! on, replaced as a whole.
//!
//! Tensors: `value.N`, `mean.N` and `square.N` are parameter N of [`crate::TrainableParams`]
//! and its moments, `best.N` its values at the best evaluation; `curve` is `[evaluations, 2]` of
//! (step, held-back loss) and `train_loss` the last step's, as f64 so that no bit is lost. Counters
//! and the training's fingerprint are in the metadata. The order of rows and dropout follow from
//! seed and step, so there is no generator to keep.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headstart_disk::files::write_atomic_with;
use headstart_disk::{Disk, Mode};
use headstart_kernels::adamw::Moments;
use headstart_lm::LmError;
use headstart_lm::files::put_safetensors;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::spec::Resume;

/// Name of the file in the folder of [`Resume`].
pub const FILE: &str = "checkpoint.safetensors";
/// Key of the fingerprint in the file's metadata.
const FINGERPRINT: &str = "fingerprint";
/// Checkpoints take one part in so many of the time at most.
const SHARE: u32 = 20;

/// What a training needs to resume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub steps: usize,
    /// Response tokens trained on.
    pub tokens: u64,
    /// Seconds spent.
    pub seconds: f64,
    /// Loss of the last step.
    pub train_loss: f64,
    /// (step, held-back loss).
    pub curve: Vec<(usize, f64)>,
    /// Values of the parameters.
    pub values: Vec<Vec<f32>>,
    /// Their moments.
    pub moments: Vec<Moments>,
    /// Values at the best evaluation.
    pub best: Vec<Vec<f32>>,
}

/// [`Progress`] borrowed from a training.
pub struct View<'a> {
    /// All but the vectors of [`Progress`].
    pub numbers: Progress,
    /// Its vectors, in the order values, moments, best.
    pub values: &'a [Vec<f32>],
    /// Moments.
    pub moments: Vec<&'a Moments>,
    /// Values at the best evaluation.
    pub best: &'a [Vec<f32>],
}

/// Writes checkpoints when they are due.
pub struct Checkpointer {
    file: PathBuf,
    disk: Arc<dyn Disk>,
    every: Duration,
    fingerprint: String,
    last: Instant,
    took: Duration,
}

impl Checkpointer {
    /// For a training with this fingerprint.
    pub fn new(resume: &Resume, disk: Arc<dyn Disk>, fingerprint: String) -> Self {
        let every = Duration::try_from_secs_f64(resume.every).unwrap_or_default();
        let file = resume.folder.join(FILE);
        Self { file, disk, every, fingerprint, last: Instant::now(), took: Duration::ZERO }
    }

    /// The training's own progress, if there is any. A file of another training, or a damaged one,
    /// counts as none.
    pub fn load(&self) -> Option<Progress> {
        let bytes = headstart_disk::read::whole(&self.file, headstart_disk::read::TENSORS).ok()?;
        let read = read(&bytes, &self.fingerprint);
        if read.is_none() {
            tracing::warn!(
                "{}: not this training's progress: starting from the first step",
                self.file.display()
            );
        }
        read
    }

    /// Whether it is time for a checkpoint.
    pub fn due(&self) -> bool {
        self.last.elapsed() >= self.every.max(self.took * SHARE)
    }

    /// Replaces the checkpoint. That it cannot be written does not end the training: what is lost
    /// is only time, should it be cut off.
    pub fn save(&mut self, progress: &View) {
        let begun = Instant::now();
        if let Err(e) = write(&*self.disk, &self.file, &self.fingerprint, progress) {
            tracing::warn!("cannot write a checkpoint: {e}");
        }
        self.last = Instant::now();
        self.took = begun.elapsed();
    }
}

fn write(disk: &dyn Disk, file: &Path, fingerprint: &str, p: &View) -> Result<(), LmError> {
    let n = &p.numbers;
    let curve: Vec<f64> = n.curve.iter().flat_map(|(step, loss)| [*step as f64, *loss]).collect();
    let last = [n.train_loss, n.seconds];
    let mut tensors: Vec<(String, Dtype, Vec<usize>, &[u8])> = vec![
        ("curve".into(), Dtype::F64, vec![n.curve.len(), 2], bytemuck::cast_slice(&curve)),
        ("train_loss".into(), Dtype::F64, vec![1], bytemuck::cast_slice(&last[..1])),
        ("seconds".into(), Dtype::F64, vec![1], bytemuck::cast_slice(&last[1..])),
    ];
    for (i, v) in p.values.iter().enumerate() {
        tensors.push((format!("value.{i}"), Dtype::F32, vec![v.len()], bytemuck::cast_slice(v)));
    }
    for (i, m) in p.moments.iter().enumerate() {
        tensors.push((format!("mean.{i}"), Dtype::F32, vec![m.mean.len()], bytemuck::cast_slice(&m.mean)));
        tensors.push((
            format!("square.{i}"),
            Dtype::F32,
            vec![m.square.len()],
            bytemuck::cast_slice(&m.square),
        ));
    }
    for (i, v) in p.best.iter().enumerate() {
        tensors.push((format!("best.{i}"), Dtype::F32, vec![v.len()], bytemuck::cast_slice(v)));
    }
    let views = tensors.into_iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(dtype, shape, bytes);
        view.map(|v| (name, v)).map_err(|e| LmError::Internal(e.to_string()))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    let metadata = HashMap::from([
        (FINGERPRINT.to_owned(), fingerprint.to_owned()),
        ("steps".to_owned(), n.steps.to_string()),
        ("tokens".to_owned(), n.tokens.to_string()),
    ]);
    write_atomic_with(disk, file, Mode::Normal, |open| put_safetensors(open, file, views, metadata))
}

fn read(bytes: &[u8], fingerprint: &str) -> Option<Progress> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    let metadata = header.metadata().as_ref()?;
    if metadata.get(FINGERPRINT)? != fingerprint {
        return None;
    }
    let all = SafeTensors::deserialize(bytes).ok()?;
    let numbers = |name: &str| -> Option<Vec<f32>> {
        let data = all.tensor(name).ok()?.data();
        Some(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    };
    let wide = |name: &str| -> Option<Vec<f64>> {
        let data = all.tensor(name).ok()?.data();
        data.chunks_exact(8).map(|b| Some(f64::from_le_bytes(b.try_into().ok()?))).collect()
    };
    let list = |what: &str| (0..).map_while(|i| numbers(&format!("{what}.{i}"))).collect::<Vec<_>>();
    let moments = list("mean").into_iter().zip(list("square"));
    Some(Progress {
        steps: metadata.get("steps")?.parse().ok()?,
        tokens: metadata.get("tokens")?.parse().ok()?,
        seconds: *wide("seconds")?.first()?,
        train_loss: *wide("train_loss")?.first()?,
        curve: wide("curve")?.chunks_exact(2).map(|c| (c[0] as usize, c[1])).collect(),
        values: list("value"),
        moments: moments.map(|(mean, square)| Moments { mean, square }).collect(),
        best: list("best"),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use headstart_disk::SystemDisk;

    use super::*;

    fn progress() -> Progress {
        Progress {
            steps: 7,
            tokens: 99,
            seconds: 0.1 + 0.2,
            train_loss: std::f64::consts::PI / 3.0,
            curve: vec![(0, 1.0 / 3.0), (4, 0.1)],
            values: vec![vec![1.5, -0.25], vec![]],
            moments: vec![Moments { mean: vec![0.5, 0.25], square: vec![1e-30, 3.0] }, Moments::default()],
            best: vec![vec![0.5, 1.0], vec![]],
        }
    }

    fn view(p: &Progress) -> View<'_> {
        View {
            numbers: Progress { values: vec![], moments: vec![], best: vec![], ..p.clone() },
            values: &p.values,
            moments: p.moments.iter().collect(),
            best: &p.best,
        }
    }

    #[test]
    fn what_is_kept_is_what_is_found_and_only_by_its_own_training() {
        let dir = tempfile::tempdir().unwrap();
        let resume = Resume { folder: dir.path().join("deep/key"), every: 0.0 };
        let mut keeper = Checkpointer::new(&resume, Arc::new(SystemDisk), "a".into());
        assert!(keeper.load().is_none() && keeper.due());
        keeper.save(&view(&progress()));
        assert_eq!(keeper.load().unwrap(), progress());
        assert!(
            Checkpointer::new(&resume, Arc::new(SystemDisk), "b".into()).load().is_none(),
            "another training's"
        );
        assert_eq!(fs::read_dir(&resume.folder).unwrap().count(), 1, "nothing temporary is left");
        let file = resume.folder.join(FILE);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() - 3]).unwrap();
        assert!(keeper.load().is_none(), "a damaged file counts as none");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "in the way").unwrap();
        let resume = Resume { folder: file, every: 0.0 };
        Checkpointer::new(&resume, Arc::new(SystemDisk), "a".into()).save(&view(&progress()));
    }
}
