//! Where the answers of a conversation lie in its text, and which tokens they are.

use std::ops::Range;

use super::template::{ChatTemplate, marked, marks};
use super::{ANSWERS, TextCodec, checked, guarded};
use crate::error::LmError;

/// A row as tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowTokens {
    /// All ids.
    pub ids: Vec<u32>,
    /// The answers that count, in order.
    pub answers: Vec<AnswerTokens>,
}

/// An answer among the tokens of its row.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerTokens {
    /// Its tokens, the one that ends it included.
    pub tokens: Range<usize>,
    /// Of each of its tokens, how many bytes of what the assistant said lie before the token's end.
    pub bytes: Vec<usize>,
}

/// Where an answer lies in the text of a conversation, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    /// Where the model begins to write.
    pub start: usize,
    /// What the assistant said, as the template writes it.
    pub content: Range<usize>,
    /// Where the template has closed the answer.
    pub end: usize,
}

impl ChatTemplate {
    /// The text of turns of which the last is an answer, and where its answers lie.
    pub(super) fn conversation(&self, turns: &[(&str, &str)]) -> Result<(String, Vec<Place>), LmError> {
        if !self.is_opaque() {
            return self.laid_out(turns);
        }
        let marks = marks(turns);
        let (text, places) = self.laid_out(&marked(turns, &marks))?;
        let filled = self.fill(&text, turns)?;
        let moved = places.into_iter().map(|place| Place {
            start: filled.at(place.start),
            content: filled.at(place.content.start)..filled.at(place.content.end),
            end: filled.at(place.end),
        });
        let moved = moved.collect();
        Ok((filled.text, moved))
    }

    /// What the template writes for turns of which the last is an answer, and where the answers lie in it.
    fn laid_out(&self, turns: &[(&str, &str)]) -> Result<(String, Vec<Place>), LmError> {
        let text = self.answered(turns)?;
        let answers = turns.iter().enumerate().filter(|(_, t)| t.0 == ANSWERS).map(|(at, _)| at);
        let places = answers.map(|at| self.place(turns, at, &text)).collect::<Result<Vec<_>, _>>()?;
        match places.windows(2).find(|pair| pair[0].end > pair[1].start) {
            Some(_) => Err(self.indistinct()),
            None => Ok((text, places)),
        }
    }

    /// Where the answer `at` lies: what the template writes around it is found by writing another
    /// text in its stead.
    fn place(&self, turns: &[(&str, &str)], at: usize, text: &str) -> Result<Place, LmError> {
        let mut mark = String::from(MARK);
        while turns.iter().any(|(_, content)| content.contains(&mark)) {
            mark.push_str(MARK);
        }
        let mut marked = turns.to_vec();
        marked[at].1 = &mark;
        let marked = self.answered(&marked)?;
        let Some((before, behind)) = marked.split_once(&mark) else { return Err(self.leaves_out()) };
        let ends = text.len().checked_sub(behind.len()).filter(|_| text.ends_with(behind));
        let content = ends.filter(|end| text.starts_with(before) && before.len() <= *end);
        let content = content.map(|end| before.len()..end);
        let asked = self.asked(&turns[..at])?;
        let start = match &content {
            _ if text.starts_with(&asked) => asked.len(),
            // What a generation prompt adds to begin an answer, such as reasoning, may be left out of
            // an answer that is there.
            Some(content) => match self.told(&turns[..at]) {
                Ok(told) if text.starts_with(&told) => {
                    common(&asked, text).max(told.len()).min(content.start)
                }
                _ => content.start,
            },
            None => return Err(self.indistinct()),
        };
        let end = match at + 1 == turns.len() {
            true => text.len(),
            false => {
                let closed = self.answered(&turns[..=at])?;
                if text.starts_with(&closed) { closed.len() } else { ends.ok_or_else(|| self.indistinct())? }
            }
        };
        let content = match content {
            Some(content) => content.start.max(start).min(end)..content.end.min(end),
            None => start.min(end)..ends.unwrap_or(end).clamp(start.min(end), end),
        };
        Ok(Place { start, content, end })
    }

    /// What the template writes behind an answer, where that can be told.
    pub(super) fn closing(&self) -> Result<String, LmError> {
        let turns = [("user", "What is rain?"), (ANSWERS, MARK)];
        // A template that cannot begin an answer is of no use; one that cannot close it can still ask.
        self.asked(&turns[..1])?;
        let text = self.answered(&turns)?;
        Ok(text.rsplit_once(MARK).map(|(_, behind)| behind.to_owned()).unwrap_or_default())
    }
}

/// A text that no conversation holds: of the characters for private use.
const MARK: &str = "\u{E0F0}said\u{E0F1}";

/// How many bytes the beginnings of two texts share, in whole characters.
fn common(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

impl TextCodec {
    /// The tokens of turns of which the last is an answer, in the template's form.
    pub(super) fn templated(
        &self,
        template: &ChatTemplate,
        turns: &[(&str, &str)],
    ) -> Result<RowTokens, LmError> {
        let (text, places) = template.conversation(turns)?;
        let (mut ids, mut ends) = self.encode_with_ends(&text, false)?;
        let first_behind = |ends: &[usize], byte: usize| ends.partition_point(|end| *end <= byte);
        let mut answers = Vec::with_capacity(places.len());
        for (i, place) in places.iter().enumerate() {
            let start = first_behind(&ends, place.start);
            let closing = first_behind(&ends, place.content.end).max(start)..first_behind(&ends, place.end);
            let closed = closing.clone().find(|at| self.eos.contains(&ids[*at])).map(|at| at + 1);
            let end = match closed {
                Some(end) => end,
                None if i + 1 < places.len() => closing.end.max(start),
                // The template does not say where the last answer ends, but the model has to.
                None => {
                    ids.push(self.eos[0]);
                    ends.push(text.len());
                    ids.len()
                }
            };
            let said = |byte: &usize| byte.min(&place.content.end).saturating_sub(place.content.start);
            answers.push(AnswerTokens {
                tokens: start..end,
                bytes: ends[start..end].iter().map(said).collect(),
            });
        }
        // What a template writes behind the end of the last answer is never generated.
        ids.truncate(answers.last().map_or(ids.len(), |a| a.tokens.end));
        Ok(RowTokens { ids, answers })
    }

    /// The tokens of turns for a model without a template: each turn and a line break, each answer
    /// and the token that ends it.
    pub(super) fn plain(&self, turns: &[(&str, &str)]) -> Result<RowTokens, LmError> {
        let mut all = RowTokens::default();
        for (i, exchange) in turns.split_inclusive(|(role, _)| *role == ANSWERS).enumerate() {
            let questions = exchange.iter().filter(|(role, _)| *role != ANSWERS);
            let mut text: String = questions.map(|(_, said)| format!("{said}\n")).collect();
            let asked = text.len();
            let answer = exchange.last().filter(|(role, _)| *role == ANSWERS);
            text.extend(answer.map(|(_, said)| *said));
            let (mut ids, mut ends) = self.encode_with_ends(&text, i == 0)?;
            // Some tokenizers close every text; the answer is still to come, or its end is added here.
            while ids.last().is_some_and(|id| self.eos.contains(id)) {
                ids.pop();
                ends.pop();
            }
            let (from, start) = (all.ids.len(), ends.partition_point(|end| *end <= asked));
            all.ids.append(&mut ids);
            if answer.is_some() {
                all.ids.push(self.eos[0]);
                ends.push(text.len());
                let bytes = ends[start..].iter().map(|end| end - asked).collect();
                all.answers.push(AnswerTokens { tokens: from + start..all.ids.len(), bytes });
            }
        }
        Ok(all)
    }

    /// Ids of a text, and where each token ends in it, in bytes, never falling.
    fn encode_with_ends(&self, text: &str, special: bool) -> Result<(Vec<u32>, Vec<usize>), LmError> {
        let encoding = guarded(&self.path, || self.tokenizer.encode(text, special))?;
        let encoding = checked(encoding, self.vocab, &self.path)?;
        let mut so_far = 0;
        let ends = encoding.get_offsets().iter().map(|(_, end)| {
            so_far = so_far.max(*end);
            so_far
        });
        Ok((encoding.get_ids().to_vec(), ends.collect()))
    }
}
