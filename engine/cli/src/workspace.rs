//! Which workspace a command uses.
//!
//! `--workspace` or `HEADSTART_WORKSPACE` names it. Otherwise it is the nearest `.headstart`: searched
//! for in the pipeline file's folder and above, by commands without a file from the current folder.

use std::path::{Path, PathBuf};

use headstart_console::errln;
use headstart_store::Workspace;

use crate::exit::CommandError;

/// Name of a workspace's folder, where none is given.
const NAME: &str = ".headstart";

/// Where a command searches for its workspace.
pub struct Location<'a> {
    named: Option<&'a Path>,
    file: Option<&'a Path>,
    quiet: bool,
}

impl<'a> Location<'a> {
    /// The folder that was named, if any, else one found from the pipeline file, if the command has one.
    pub fn new(named: Option<&'a Path>, file: Option<&'a Path>, quiet: bool) -> Self {
        // An empty variable is as good as none.
        Self { named: named.filter(|n| !n.as_os_str().is_empty()), file, quiet }
    }

    /// Whether the folder was named, and not searched for.
    pub fn is_named(&self) -> bool {
        self.named.is_some()
    }

    /// The folder from which the search goes upwards.
    fn start(&self) -> Result<PathBuf, CommandError> {
        let here =
            || std::env::current_dir().map_err(|e| CommandError::input(format!("the current folder: {e}")));
        let Some(file) = self.file else { return here() };
        // A link is where it is, not where it leads, as for other tools.
        let file = std::path::absolute(file);
        let file = file.map_err(|e| CommandError::input(format!("the path of the pipeline file: {e}")))?;
        Ok(file.parent().map_or_else(|| file.clone(), Path::to_owned))
    }

    /// The workspace's folder, if there is one.
    fn found(&self) -> Result<Option<PathBuf>, CommandError> {
        if let Some(named) = self.named {
            return Ok(is_workspace(named).then(|| named.to_owned()));
        }
        let start = self.start()?;
        Ok(start.ancestors().map(|a| a.join(NAME)).find(|d| is_workspace(d)))
    }

    /// The workspace, for commands that only read it.
    ///
    /// # Errors
    /// If there is none, or it cannot be opened.
    pub fn existing(&self) -> Result<Workspace, CommandError> {
        if let Some(dir) = self.found()? {
            return Ok(Workspace::open(&dir)?);
        }
        Err(match self.named {
            Some(named) => CommandError::input(format!("there is no workspace at {}", named.display()))
                .help("`headstart run FILE` creates one"),
            None => CommandError::input(format!("no `{NAME}` in {} or above", self.start()?.display()))
                .help("go to the pipeline's folder, or name a workspace with `--workspace DIR`; `headstart run FILE` creates one"),
        })
    }

    /// The workspace if there is one, for commands that do without.
    ///
    /// # Errors
    /// If there is one that cannot be opened.
    pub fn optional(&self) -> Result<Option<Workspace>, CommandError> {
        self.found()?.map(|dir| Workspace::open(&dir)).transpose().map_err(CommandError::from)
    }

    /// The workspace; creates it where there is none, and says so.
    ///
    /// # Errors
    /// If it cannot be opened or created.
    pub fn create(&self) -> Result<Workspace, CommandError> {
        if let Some(dir) = self.found()? {
            return Ok(Workspace::open(&dir)?);
        }
        let dir = match self.named {
            Some(named) => named.to_owned(),
            None => self.start()?.join(NAME),
        };
        let ws = Workspace::open(&dir)?;
        if !self.quiet {
            errln!("created the workspace {}", dir.display());
        }
        Ok(ws)
    }
}

fn is_workspace(dir: &Path) -> bool {
    dir.join("workspace.json").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(dir: &Path) {
        std::fs::create_dir_all(dir).expect("writable");
        std::fs::write(dir.join("workspace.json"), "{\"format\":1}").expect("writable");
    }

    #[test]
    fn the_nearest_above_the_file_is_found() {
        let top = tempfile::tempdir().expect("a folder");
        let deep = top.path().join("a/b/c");
        std::fs::create_dir_all(&deep).expect("writable");
        let file = deep.join("p.pllm");
        let found = |file: &Path| Location::new(None, Some(file), true).found().expect("searched");
        workspace(&top.path().join("a").join(NAME));
        assert_eq!(found(&file), Some(top.path().join("a").join(NAME)));
        workspace(&deep.join(NAME));
        assert_eq!(found(&file), Some(deep.join(NAME)));
        // A folder of this name that holds something else is passed over.
        std::fs::create_dir_all(deep.join("d").join(NAME)).expect("writable");
        assert_eq!(found(&deep.join("d/p.pllm")), Some(deep.join(NAME)));
    }

    #[test]
    fn what_is_named_is_not_searched_for() {
        let top = tempfile::tempdir().expect("a folder");
        workspace(&top.path().join(NAME));
        let (file, named) = (top.path().join("p.pllm"), top.path().join("other"));
        let location = Location::new(Some(&named), Some(&file), true);
        assert!(location.optional().expect("nothing to open").is_none());
        assert!(location.existing().is_err_and(|e| e.message().contains("other")));
        let empty = Location::new(Some(Path::new("")), Some(&file), true);
        assert_eq!(empty.found().expect("searched"), Some(top.path().join(NAME)));
    }
}
