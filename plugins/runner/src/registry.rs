//! Finds a stage: built in by kind, custom by its program.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use headstart_protocol::declared::{CustomStages, ProgramRef};
use headstart_protocol::{Digest, Failure, Numerics, Stage, kinds};

/// The stages that a runner can run. Clones share everything.
#[derive(Clone, Default)]
pub struct StageRegistry {
    built_in: Arc<BTreeMap<String, Box<dyn Stage>>>,
    custom: Arc<OnceLock<Arc<dyn CustomStages>>>,
}

/// A stage that was found.
pub enum Found<'a> {
    /// A built-in one.
    BuiltIn(&'a dyn Stage),
    /// A custom one, and the version that its declaration states.
    Custom(Box<dyn Stage>, u32),
}

impl Found<'_> {
    /// The implementation.
    pub fn stage(&self) -> &dyn Stage {
        match self {
            Self::BuiltIn(stage) => *stage,
            Self::Custom(stage, _) => stage.as_ref(),
        }
    }

    /// Its version; `None` for a kind that the language does not know.
    pub fn version(&self) -> Option<u32> {
        match self {
            Self::BuiltIn(stage) => kinds::find(stage.kind()).map(|kind| kind.version),
            Self::Custom(_, version) => Some(*version),
        }
    }
}

impl fmt::Debug for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_tuple("Found").field(&self.stage().kind()).finish()
    }
}

impl StageRegistry {
    /// A registry of built-in stages. Of two stages of the same kind, the later counts.
    pub fn new(built_in: Vec<Box<dyn Stage>>) -> Self {
        let built_in = built_in.into_iter().map(|stage| (stage.kind().to_owned(), stage)).collect();
        Self { built_in: Arc::new(built_in), custom: Arc::default() }
    }

    /// The same registry, with custom stages. Applies to all clones; a second call changes nothing.
    pub fn set_custom(&self, custom: Arc<dyn CustomStages>) {
        let _ = self.custom.set(custom);
    }

    /// The built-in kinds, sorted.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.built_in.keys().map(String::as_str)
    }

    /// Digests of the programs whose stages can run here without a plan that names them.
    pub fn allowed_programs(&self) -> Vec<Digest> {
        self.custom.get().map(|custom| custom.allowed()).unwrap_or_default()
    }

    /// Whether a stage of this kind can be looked up here: a custom one, or a built-in one.
    pub fn has(&self, kind: &str, is_custom: bool) -> bool {
        (is_custom && self.custom.get().is_some()) || self.built_in.contains_key(kind)
    }

    /// The built-in stage of a kind.
    ///
    /// # Errors
    /// `input`, with the kinds there are, if there is none.
    pub fn built_in(&self, kind: &str) -> Result<&dyn Stage, Failure> {
        self.built_in.get(kind).map(AsRef::as_ref).ok_or_else(|| {
            let known: Vec<&str> = self.kinds().collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Failure::input(format!("this runner has no stage kind `{kind}`; it has {known}"))
                .help("install the version of Headstart that planned the run")
        })
    }

    /// What a built-in kind computes numbers with here; `None` if it is not here or not numeric.
    pub fn numerics(&self, kind: &str) -> Option<Numerics> {
        self.built_in.get(kind)?.numerics()
    }

    /// What this place computes numbers with: its built-in stages share one backend.
    pub fn any_numerics(&self) -> Option<Numerics> {
        self.built_in.values().find_map(|stage| stage.numerics())
    }

    /// The stage of a kind: of a program where one is named, else built in.
    ///
    /// # Errors
    /// `input` if there is no such stage, or the place does not run the program.
    pub fn find(&self, kind: &str, program: Option<ProgramRef<'_>>) -> Result<Found<'_>, Failure> {
        let Some(program) = program else { return self.built_in(kind).map(Found::BuiltIn) };
        let Some(custom) = self.custom.get() else {
            return Err(Failure::input(format!("this runner runs no custom stages, so not `{kind}`")));
        };
        custom.find(kind, program).map(|(stage, version)| Found::Custom(stage, version))
    }
}
