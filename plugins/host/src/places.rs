//! Which programs may run, by place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use headstart_disk::read;
use headstart_protocol::declared::{
    CustomStages, Declaration, DeclaredPlace, ProgramRef, is_inside, is_left_out,
};
use headstart_protocol::{Digest, Failure, FailureClass, Stage};

use crate::folder;
use crate::session::Limits;
use crate::stage::CustomStage;

/// The engine's machine: who runs a pipeline there trusts the programs that it names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trusted {
    /// Time limits of programs, and whether they are confined.
    pub limits: Limits,
}

impl CustomStages for Trusted {
    fn find(&self, kind: &str, program: ProgramRef<'_>) -> Result<(Box<dyn Stage>, u32), Failure> {
        let ProgramRef::Planned(program, dir) = program else {
            let m = format!("the engine runs the programs of a plan alone, and none names `{kind}`");
            return Err(Failure::new(FailureClass::Internal, m));
        };
        let stage = kind.rsplit('.').next().unwrap_or(kind);
        let declared = program.declaration.stage(stage).ok_or_else(|| {
            Failure::input(format!("the declaration of {} has no stage `{stage}`", program.path))
        })?;
        let stage = CustomStage {
            kind: kind.to_owned(),
            program: dir.join(&program.path),
            files: program.declaration.files.clone(),
            digest: program.digest,
            declared: declared.clone(),
            limits: self.limits,
        };
        Ok((Box::new(stage), declared.version))
    }
}

/// A device: only programs that its owner put into a folder, each with its declaration. An engine
/// names a program by digest, and can neither send one nor change one.
#[derive(Clone, Debug, Default)]
pub struct Allowlist {
    programs: BTreeMap<Digest, (PathBuf, Declaration)>,
    limits: Limits,
}

impl Allowlist {
    /// The programs of a folder and of the folders directly inside it: those that have a
    /// `.stages.json` beside them. A program is made of all files of the folder that it lies in.
    ///
    /// # Errors
    /// If a folder or a declaration cannot be read, or a program is not there.
    pub fn in_folder(folder: &Path) -> Result<Self, Failure> {
        let mut all = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        folders.extend(entries(folder)?.into_iter().filter(|at| {
            at.is_dir() && at.file_name().is_some_and(|name| !is_left_out(&name.to_string_lossy()))
        }));
        for folder in folders {
            for at in entries(&folder)?.iter().filter(|at| at.to_string_lossy().ends_with(".stages.json")) {
                let (program, declaration) = allowed(&folder, at)?;
                all.insert(folder::digest(&program, &declaration.files)?, (program, declaration));
            }
        }
        Ok(Self { programs: all, limits: Limits::default() })
    }

    /// The same programs under other limits.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Their paths.
    pub fn programs(&self) -> impl Iterator<Item = &Path> {
        self.programs.values().map(|(at, _)| at.as_path())
    }

    /// A stage of the program with this digest.
    ///
    /// # Errors
    /// If the owner did not allow the program, or the stage may not run on a device.
    pub fn stage(&self, wanted: &Digest, kind: &str) -> Result<CustomStage, Failure> {
        let Some((program, declaration)) = self.programs.get(wanted) else {
            let m =
                format!("this device's owner has not allowed the program of `{kind}` ({})", wanted.short());
            return Err(Failure::input(m).help(
                "copy the program's whole folder, with its `.stages.json`, into the folder that `--stages` names",
            ));
        };
        let stage = kind.rsplit('.').next().unwrap_or(kind);
        let declared = declaration.stage(stage);
        let Some(declared) = declared.filter(|s| s.places.contains(&DeclaredPlace::Device)) else {
            let m = format!("{} has no stage `{stage}` for devices", program.display());
            return Err(Failure::input(m));
        };
        Ok(CustomStage {
            kind: kind.to_owned(),
            program: program.clone(),
            files: declaration.files.clone(),
            digest: *wanted,
            declared: declared.clone(),
            limits: self.limits,
        })
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = std::fs::read_dir(folder).map_err(|e| Failure::io(folder, &e))?;
    entries.map(|e| e.map(|e| e.path()).map_err(|e| Failure::io(folder, &e))).collect()
}

/// A program of a folder by its declaration, `at`.
fn allowed(folder: &Path, at: &Path) -> Result<(PathBuf, Declaration), Failure> {
    let text = read::text(at, read::SETTINGS).map_err(|e| Failure::io(at, &e))?;
    let wrong = |why: &dyn std::fmt::Display| Failure::input(format!("{}: {why}", at.display()));
    let declaration: Declaration = serde_json::from_str(&text).map_err(|e| wrong(&e))?;
    declaration.check().map_err(|e| wrong(&e))?;
    if !is_inside(&declaration.program) || declaration.program.contains('/') {
        return Err(wrong(&format!("{:?} is not a file of this folder", declaration.program)));
    }
    let program = folder.join(&declaration.program);
    let program = std::path::absolute(&program).map_err(|e| Failure::io(&program, &e))?;
    Ok((program, declaration))
}

impl CustomStages for Allowlist {
    fn find(&self, kind: &str, program: ProgramRef<'_>) -> Result<(Box<dyn Stage>, u32), Failure> {
        let digest = match program {
            ProgramRef::Planned(program, _) => &program.digest,
            ProgramRef::Digest(digest) => digest,
        };
        let stage = self.stage(digest, kind)?;
        let version = stage.declared.version;
        Ok((Box::new(stage), version))
    }

    fn allowed(&self) -> Vec<Digest> {
        self.programs.keys().copied().collect()
    }
}
