//! A choice as an artifact: what was chosen, why, what it cost, and what it should save.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use headstart_protocol::artifacts::{BASE, Cost, Forecast, Selection, Verified as Losses, rounded};
use headstart_protocol::{ArtifactRef, Context, Failure, Output, Type};

use crate::decide::{Choice, User};
use crate::forecast::{Forecast as Expectation, left_by_distance, left_by_loss};
use crate::nearest::Ranked;
use crate::place::Place;
use crate::search::{Finalist, Verified};
use crate::sentence::sentence;
use crate::strategy::Strategy;

/// Distances that a selection reports at most.
const REPORTED: usize = 10;

/// A choice that has been made.
pub(crate) struct Outcome<'a> {
    pub place: &'a Place<'a>,
    pub user: &'a User<'a>,
    /// Forward passes that it took to put the user into the space.
    pub embedding: u64,
    pub choice: &'a Choice,
    pub verified: Option<&'a Verified>,
    pub strategy: Strategy,
    pub start: Instant,
}

/// What a choice comes to.
struct Decision {
    /// The pLLM whose style the user shows.
    style: Option<Ranked>,
    /// The best single pLLM; none where that is the base.
    single: Option<Ranked>,
    /// Where to start; none where that is the base.
    start: Option<Finalist>,
}

impl Outcome<'_> {
    /// What was chosen: by likelihood where it was asked, else by distance.
    fn decision(&self) -> Decision {
        if let Some(v) = self.verified {
            let style = v.verdict.best.map(|at| v.finalists[at].lead);
            return Decision { style, single: v.single, start: v.start.clone() };
        }
        // Without a known base there is nothing to fall back to.
        let base = self.place.manifest.uses.contains_key("base");
        let nearest = self.choice.close.first().copied().filter(|_| !(self.choice.abstains && base));
        let start = nearest.map(|near| match self.choice.mix.iter().any(|m| m.0 == near.index) {
            true => Finalist::unasked(self.heaviest(near), &self.choice.mix),
            false => Finalist::single(near),
        });
        Decision { style: nearest, single: nearest, start }
    }

    /// The heaviest member of the mix that distance found.
    fn heaviest(&self, nearest: Ranked) -> Ranked {
        let first = self.choice.mix.first().map_or(nearest.index, |m| m.0);
        self.choice.close.iter().find(|r| r.index == first).copied().unwrap_or(nearest)
    }

    fn mix(&self, chosen: Option<&Finalist>) -> Result<BTreeMap<String, f64>, Failure> {
        let weights = chosen.into_iter().flat_map(|c| &c.weights);
        weights.map(|(i, w)| Ok((self.place.name(*i)?, rounded(*w)))).collect()
    }

    /// Distances of the nearest, by name.
    fn distances(&self) -> Result<BTreeMap<String, f64>, Failure> {
        let near = self.choice.close.iter().take(REPORTED);
        near.map(|r| Ok((self.place.name(r.index)?, rounded(r.distance)))).collect()
    }

    /// The selection as an artifact.
    ///
    /// # Errors
    /// If a name of the catalog cannot be read, or a number is not finite.
    pub fn output(&self, ctx: &dyn Context, seed: u64) -> Result<Output, Failure> {
        let (place, choice) = (self.place, self.choice);
        let Decision { style, single, start } = self.decision();
        let start = start.as_ref();
        let mix = self.mix(start)?;
        let strength = style.map_or(0.0, |r| r.strength);
        let user = self.user.explain(strength, seed);
        let forecast = self.forecast(ctx, start, seed);
        let ending = forecast.as_ref().ok().and_then(Expectation::words);
        let name = |r: Ranked| place.name(r.index);
        let mut selection = Selection {
            pllm_name: Some(single.map_or(Ok(BASE.to_owned()), name)?),
            style: style.map(name).transpose()?,
            is_mix: start.is_some_and(Finalist::is_mix),
            abstained: start.is_none(),
            confidence: self.verified.map_or(choice.confidence, |v| v.confidence),
            strength: rounded(strength),
            strategy: Some(self.strategy.name().to_owned()),
            mix,
            distances: self.distances()?,
            user,
            sentence: None,
            forecast: match &forecast {
                Ok(f) => Forecast::Known(f.expected()),
                Err(why) => Forecast::NotKnown((*why).to_owned()),
            },
            n: self.user.whitened.rows,
            verified: self.verified.map(|v| self.verified_value(v)).transpose()?,
            cost: self.cost(ctx, single, start),
        };
        selection.sentence = Some(sentence(place.catalog, &selection, ending.as_deref()));
        let output = Output::of(Type::Selection, &selection)?;
        Ok(self.refer(output, single, selection.mix.keys()))
    }

    /// Losses and fitted shares of those that were compared to the end.
    fn verified_value(&self, v: &Verified) -> Result<Losses, Failure> {
        let mut out = Losses {
            base_loss: v.verdict.base_loss.map(rounded),
            mix_loss: v.mix_loss.map(rounded),
            rows: v.rows,
            held_back: v.held_back,
            ..Losses::default()
        };
        for (i, finalist) in v.finalists.iter().enumerate() {
            let share = v.verdict.shares.get(i).copied().map(rounded);
            if finalist.is_mix() {
                out.mix_share = share;
                continue;
            }
            let name = self.place.name(finalist.lead.index)?;
            out.loss.insert(name.clone(), rounded(v.verdict.losses[i]));
            out.share.extend(share.map(|s| (name, s)));
        }
        Ok(out)
    }

    /// Adds what the selection refers to.
    fn refer<'n>(
        &self,
        mut output: Output,
        single: Option<Ranked>,
        mixed: impl Iterator<Item = &'n String>,
    ) -> Output {
        let uses = &self.place.manifest.uses;
        let pllm: Option<&ArtifactRef> = match single {
            // A catalog of people's texts has no pLLMs to refer to; the name is its answer.
            Some(r) => self.place.pllm(r.index).ok(),
            None => uses.get("base"),
        };
        if let Some(pllm) = pllm {
            output = output.uses("pllm", pllm.clone());
        }
        for name in mixed {
            let key = format!("pllm:{name}");
            if let Some(pllm) = uses.get(&key) {
                output = output.uses(key, pllm.clone());
            }
        }
        output
    }

    /// The forecast for the start, or why there is none.
    fn forecast(
        &self,
        ctx: &dyn Context,
        start: Option<&Finalist>,
        seed: u64,
    ) -> Result<Expectation, &'static str> {
        let start = start.ok_or("the start is the base, so nothing is saved")?;
        let pace = self
            .place
            .catalog
            .about
            .pace
            .as_ref()
            .ok_or("the catalog does not know how its pLLMs were trained")?;
        let left = match self.verified.and_then(|v| v.brought) {
            Some(brought) => left_by_loss(pace, brought),
            None => left_by_distance(self.user, &start.weights, seed)
                .ok_or("the user's texts are too few to tell how far they are from the base")?,
        };
        let bytes: u64 = start.weights.iter().map(|m| self.size(ctx, m.0)).sum();
        let speed = self.verified.and_then(|v| v.asked.speed);
        Ok(Expectation::new(pace, left, speed, bytes, self.start.elapsed().as_secs_f64()))
    }

    fn size(&self, ctx: &dyn Context, index: usize) -> u64 {
        self.place.pllm(index).and_then(|p| ctx.manifest(p)).map_or(0, |m| m.size())
    }

    /// What choosing has cost, in the same units for every strategy: sequences put through a model, to
    /// put the user into the space where the strategy looks there, and to ask for likelihoods; bytes that
    /// had to be here, which are the catalog, every pLLM that was asked and those that were chosen, but
    /// not the base, which is here anyway; and seconds in all.
    fn cost(&self, ctx: &dyn Context, single: Option<Ranked>, start: Option<&Finalist>) -> Cost {
        let base = self.place.manifest.uses.get("base").map(|b| b.id);
        let asked = self.verified.map(|v| &v.asked);
        let mut weights: u64 =
            asked.map_or(0, |a| a.sizes.iter().filter(|(id, _)| Some(**id) != base).map(|s| s.1).sum());
        let members = start.into_iter().flat_map(|s| s.weights.iter().map(|m| m.0));
        let chosen: BTreeSet<usize> = members.chain(single.map(|r| r.index)).collect();
        for index in chosen {
            let known =
                self.place.pllm(index).is_ok_and(|p| asked.is_some_and(|a| a.sizes.contains_key(&p.id)));
            if !known {
                weights += self.size(ctx, index);
            }
        }
        let catalog = self.place.manifest.size();
        let embedding = if self.strategy.looks_in_the_space() { self.embedding } else { 0 };
        Cost {
            forward_passes: embedding + asked.map_or(0, |a| a.forward_passes),
            bytes: catalog + weights,
            catalog_bytes: catalog,
            seconds: rounded(self.start.elapsed().as_secs_f64()),
        }
    }
}
