//! A catalog of a run.

use headstart_explain::catalog::Catalog;
use headstart_protocol::{ArtifactRef, Failure, Manifest};

/// A catalog and where its pLLMs are.
pub(crate) struct Place<'a> {
    pub catalog: &'a Catalog,
    pub manifest: &'a Manifest,
}

impl Place<'_> {
    /// The name of the pLLM at a place.
    ///
    /// # Errors
    /// If the catalog cannot be read.
    pub fn name(&self, index: usize) -> Result<String, Failure> {
        Ok(self.catalog.pllms.get(index)?.name)
    }

    /// The pLLM at a place.
    ///
    /// # Errors
    /// If the catalog cannot be read or does not say where the pLLM is.
    pub fn pllm(&self, index: usize) -> Result<&ArtifactRef, Failure> {
        let name = self.name(index)?;
        self.manifest.uses.get(&format!("pllm:{name}")).ok_or_else(|| {
            Failure::input(format!("the catalog does not say where the pLLM {name:?} is"))
                .help("decompose divergences of `probe`'s responses rather than of datasets")
        })
    }

    /// All pLLMs, in order.
    ///
    /// # Errors
    /// As [`Self::pllm`].
    pub fn all(&self) -> Result<Vec<ArtifactRef>, Failure> {
        (0..self.catalog.pllms.len()).map(|i| self.pllm(i).cloned()).collect()
    }
}
