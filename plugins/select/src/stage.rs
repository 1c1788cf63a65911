//! The stage kind `select`.

use std::collections::BTreeMap;
use std::sync::Arc;

use headstart_explain::catalog::Catalog;
use headstart_explain::divergence::Divergence;
use headstart_lm::Backend;
use headstart_lm::open::read_rows;
use headstart_protocol::{Args, ArtifactRef, Context, Failure, Manifest, Output, Stage, Type};
use serde_json::json;

use crate::decide::{Choice, Settings, User};
use crate::nearest::{Distance, Ranked};
use crate::sentence::sentence;
use crate::verify::{Verdict, verify};

/// Distances that a selection reports at most.
const REPORTED: usize = 10;

/// Chooses the nearest pLLM for a user, or a mix, or none.
pub struct Select {
    pub(crate) backend: Arc<dyn Backend>,
}

impl Stage for Select {
    fn kind(&self) -> &'static str {
        "select"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let manifest = ctx.manifest(args.artifact("catalog")?)?;
        let catalog = Catalog::open(ctx, args.artifact("catalog")?)?;
        let user = Divergence::open(ctx, args.artifact("user")?, "`user`")?;
        fits(&catalog, &user)?;
        let settings = Settings {
            distance: Distance::named(args.text("metric")?)?,
            max_mix: args.count("max_mix")?.max(1),
            seed: args.int("seed")?.cast_unsigned(),
        };
        let user = User::new(&catalog, &user.rows);
        let choice = user.choose(&settings);
        let place = Place { catalog: &catalog, manifest: &manifest };
        let verdict = match args.artifact_opt("verify") {
            Some(dataset) => {
                let rows = read_rows(ctx, dataset, "verify")?;
                let list = place.shortlist(&choice.close, args.count("shortlist")?.max(1))?;
                Some(verify(ctx, &*self.backend, &list, manifest.uses.get("base"), &rows, settings.seed)?)
            }
            None => None,
        };
        place.output(ctx, &user, &choice, verdict.as_ref(), settings.seed)
    }
}

fn fits(catalog: &Catalog, user: &Divergence) -> Result<(), Failure> {
    let (a, b) = (&catalog.about, &user.about);
    let why = if b.n == 0 {
        "`user` has no rows".to_owned()
    } else if a.pllms.is_empty() {
        "the catalog has no pLLMs".to_owned()
    } else if a.space != b.space {
        format!("the catalog is in space {}, `user` in {}", a.space.short(), b.space.short())
    } else if a.d != b.d || a.features != b.features {
        "the catalog and `user` have different components; one was made by another version".to_owned()
    } else {
        return Ok(());
    };
    Err(Failure::input(why).help("embed the user's texts in the catalog's space, with the same version"))
}

/// A catalog and where its pLLMs are.
struct Place<'a> {
    catalog: &'a Catalog,
    manifest: &'a Manifest,
}

impl Place<'_> {
    fn name(&self, index: usize) -> &str {
        &self.catalog.about.pllms[index].name
    }

    fn pllm(&self, index: usize) -> Result<&ArtifactRef, Failure> {
        let name = self.name(index);
        self.manifest.uses.get(&format!("pllm:{name}")).ok_or_else(|| {
            Failure::input(format!("the catalog does not say where the pLLM {name:?} is"))
                .help("decompose divergences of `probe`'s responses rather than of datasets")
        })
    }

    fn shortlist(&self, close: &[Ranked], n: usize) -> Result<Vec<ArtifactRef>, Failure> {
        close.iter().take(n).map(|r| self.pllm(r.index).cloned()).collect()
    }

    /// The selection as an artifact.
    fn output(
        &self,
        ctx: &dyn Context,
        user: &User<'_>,
        choice: &Choice,
        verdict: Option<&Verdict>,
        seed: u64,
    ) -> Result<Output, Failure> {
        let base = self.manifest.uses.get("base");
        let ranked = match verdict {
            Some(v) => v.best.map(|at| choice.close[at]),
            None => Some(choice.close[0]).filter(|_| !choice.abstains),
        };
        // Without a known base there is nothing to fall back to.
        let chosen = ranked.or_else(|| base.is_none().then(|| choice.close[0]));
        let mix: BTreeMap<&str, f64> = match chosen {
            Some(r) if choice.mix.iter().any(|m| m.0 == r.index) => {
                choice.mix.iter().map(|&(i, w)| (self.name(i), (w * 1e4).round() / 1e4)).collect()
            }
            Some(r) => BTreeMap::from([(self.name(r.index), 1.0)]),
            None => BTreeMap::new(),
        };
        let is_mix = mix.len() > 1;
        let explanation = user.explain(chosen.map_or(0.0, |r| r.strength), seed);
        let mut named: Vec<(&str, f64)> = mix.iter().map(|(n, w)| (*n, *w)).collect();
        named.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        let distances: BTreeMap<&str, f64> =
            choice.close.iter().take(REPORTED).map(|r| (self.name(r.index), rounded(r.distance))).collect();
        let mut value = json!({
            "pllm_name": chosen.map_or("base", |r| self.name(r.index)),
            "is_mix": is_mix,
            "abstained": chosen.is_none(),
            "confidence": verdict.map_or(choice.confidence, |v| v.confidence),
            "strength": chosen.map_or(0.0, |r| rounded(r.strength)),
            "mix": mix,
            "distances": distances,
            "user": explanation,
            "sentence": sentence(self.catalog, &named, &explanation.words),
            "cost": self.cost(ctx, choice, chosen, verdict),
            "n": user.whitened.rows,
        });
        if let Some(v) = verdict {
            let names = choice.close.iter().map(|r| self.name(r.index));
            let losses: BTreeMap<&str, f64> = names.zip(v.losses.iter().map(|x| rounded(*x))).collect();
            value["verified"] = json!({ "loss": losses, "base_loss": v.base_loss.map(rounded) });
        }
        let mut output = Output::new(Type::Selection, value);
        match (chosen, base) {
            (Some(r), _) => {
                // A catalog of people's texts has no pLLMs to refer to; the name is its answer.
                if let Ok(pllm) = self.pllm(r.index) {
                    output = output.uses("pllm", pllm.clone());
                }
            }
            (None, Some(base)) => output = output.uses("pllm", base.clone()),
            (None, None) => {}
        }
        for name in mix.keys() {
            let key = format!("pllm:{name}");
            if let Some(pllm) = self.manifest.uses.get(&key) {
                output = output.uses(key, pllm.clone());
            }
        }
        Ok(output)
    }

    /// What choosing has cost: sequences put through a model, and bytes that had to be here: the
    /// catalog, every verified pLLM and the chosen ones.
    fn cost(
        &self,
        ctx: &dyn Context,
        choice: &Choice,
        chosen: Option<Ranked>,
        verdict: Option<&Verdict>,
    ) -> serde_json::Value {
        let verified = verdict.map_or(0, |v| v.losses.len());
        let mut needed: Vec<usize> = choice.close.iter().take(verified).map(|r| r.index).collect();
        needed.extend(chosen.map(|r| r.index));
        needed.extend(chosen.iter().flat_map(|_| &choice.mix).map(|m| m.0));
        needed.sort_unstable();
        needed.dedup();
        let size = |&i: &usize| self.pllm(i).and_then(|p| ctx.manifest(p)).map_or(0, |m| m.size());
        let weights: u64 = needed.iter().map(size).sum();
        json!({
            "forward_passes": verdict.map_or(0, |v| v.forward_passes),
            "bytes": self.manifest.size() + weights,
            "catalog_bytes": self.manifest.size(),
        })
    }
}

fn rounded(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}
