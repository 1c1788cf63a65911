//! The trained tensors and their values.

use std::sync::Arc;

use headstart_lm::lora::tensor_name;
use headstart_lm::{Adapter, BlockParams, EndParams, Layout, LmError, Model, Net, Slot};

/// Where a parameter belongs in the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// The trained tensors of a block, as one vector that the layout describes.
    Block(usize, Arc<Layout>),
    /// The embedding; also the output layer where it is tied.
    Embed,
    /// Weight of the final norm.
    Norm,
    /// The output layer, where it is not the embedding.
    Head,
}

/// A parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Where it belongs.
    pub place: Place,
    /// Its shape; of a block's, its length.
    pub shape: Vec<usize>,
}

/// The trained parameters of a training: those of the blocks in order, then embedding, final norm and
/// output layer where all weights are trained.
#[derive(Clone, Debug)]
pub struct TrainableParams {
    /// What they are.
    pub params: Vec<Param>,
    /// Their values, one vector for each.
    pub values: Vec<Vec<f32>>,
}

impl Param {
    fn block(block: usize, layout: Arc<Layout>) -> Self {
        Self { shape: vec![layout.len()], place: Place::Block(block, layout) }
    }

    /// Its tensors: names in the files, shapes and ranges of its values.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, std::ops::Range<usize>)> {
        let whole =
            |name: &str| vec![(name.to_owned(), self.shape.clone(), 0..self.shape.iter().product::<usize>())];
        match &self.place {
            Place::Embed => whole("model.embed_tokens.weight"),
            Place::Norm => whole("model.norm.weight"),
            Place::Head => whole("lm_head.weight"),
            Place::Block(block, layout) => {
                let name = |slot: Slot| match slot {
                    Slot::LoraA(..) | Slot::LoraB(_) => tensor_name(*block, slot),
                    _ => format!("model.layers.{block}.{}", slot.name()),
                };
                let segments = layout.segments.iter();
                segments.map(|s| (name(s.slot), s.shape.clone(), s.range.clone())).collect()
            }
        }
    }
}

impl TrainableParams {
    /// An adapter.
    pub fn adapter(adapter: &Adapter) -> Self {
        let blocks = adapter.layouts.iter().zip(&adapter.values).enumerate();
        let trained = blocks.filter(|(_, (layout, _))| !layout.is_empty());
        let (params, values) = trained
            .map(|(i, (layout, values))| (Param::block(i, Arc::new(layout.clone())), values.clone()))
            .unzip();
        Self { params, values }
    }

    /// All weights of a model.
    pub fn full(model: &Model) -> Self {
        let layout = Arc::new(Layout::full(&model.config));
        let (mut params, mut values) = (Vec::new(), Vec::new());
        for (i, block) in model.blocks.iter().enumerate() {
            params.push(Param::block(i, layout.clone()));
            values.push(layout.segments.iter().flat_map(|s| block.value(s.slot)).collect());
        }
        params.push(Param { place: Place::Embed, shape: model.embed.shape.clone() });
        values.push(model.embed.to_vec());
        params.push(Param { place: Place::Norm, shape: vec![model.norm.len()] });
        values.push(model.norm.clone());
        if let Some(head) = &model.head {
            params.push(Param { place: Place::Head, shape: head.shape.clone() });
            values.push(head.to_vec());
        }
        Self { params, values }
    }

    /// Numbers that are trained.
    pub fn count(&self) -> u64 {
        self.values.iter().map(|v| v.len() as u64).sum()
    }

    /// Replaces all values.
    ///
    /// # Errors
    /// [`LmError::Internal`] where they are not of these parameters' sizes.
    pub fn set(&mut self, values: Vec<Vec<f32>>) -> Result<(), LmError> {
        let sizes = |v: &[Vec<f32>]| v.iter().map(Vec::len).collect::<Vec<_>>();
        if sizes(&values) != sizes(&self.values) {
            return Err(LmError::Internal("values of another training".into()));
        }
        self.values = values;
        Ok(())
    }
}

/// A model with values laid over it, in the order of [`TrainableParams`].
pub fn overlaid<'a>(model: &'a Model, params: &'a [Param], values: &'a [Vec<f32>]) -> Net<'a> {
    let mut net = Net::new(model);
    let (mut embed, mut norm, mut head) = (None, None, None);
    for (param, values) in params.iter().zip(values) {
        match &param.place {
            Place::Block(block, layout) => net.blocks[*block] = Some(BlockParams { layout, values }),
            Place::Embed => embed = Some(values.as_slice()),
            Place::Norm => norm = Some(values.as_slice()),
            Place::Head => head = Some(values.as_slice()),
        }
    }
    net.ends = embed.zip(norm).map(|(embed, norm)| EndParams { embed, norm, head });
    net
}
