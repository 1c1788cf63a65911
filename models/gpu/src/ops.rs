//! What candle's own operations lack: the product with a frozen weight, and norms with gradients.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, D, DType, Device, Layout, MetalStorage, Result, Shape, Storage,
    Tensor, bail,
};

use headstart_kernels::{RowOrder, Storage as Numbers};
use headstart_lm::Weight;

/// A weight on a device in its stored type; quantized ones are widened to f32.
pub(super) fn put(weight: &Weight, device: &Device) -> Result<Tensor> {
    let (shape, matrix) = (weight.shape.as_slice(), weight.matrix());
    let tensor = match (matrix.order, matrix.data) {
        (RowOrder::Plain, Numbers::F32(v)) => Tensor::from_slice(v, shape, device)?,
        (RowOrder::Plain, Numbers::F16(v)) => Tensor::from_slice(v, shape, device)?,
        (RowOrder::Plain, Numbers::Bf16(v)) => Tensor::from_slice(v, shape, device)?,
        (_, data) => {
            let tensor = Tensor::from_vec(weight.to_vec(), shape, device)?;
            match data {
                Numbers::F16(_) => tensor.to_dtype(DType::F16)?,
                Numbers::Bf16(_) => tensor.to_dtype(DType::BF16)?,
                Numbers::F32(_) | Numbers::Quantized(_) => tensor,
            }
        }
    };
    weight.release();
    Ok(tensor)
}

/// x Wᵀ, `[rows, out]`, as f32, of x `[rows, in]` and W `[out, in]`. The product runs in W's type,
/// x rounded to it. Where W is not a variable, no gradient is made of it: candle's own matrix
/// product makes both always, and keeps them.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if weight.is_variable() {
        return x.matmul(&weight.t()?);
    }
    let y = x.to_dtype(weight.dtype())?.contiguous()?.apply_op1(Frozen { weight: weight.clone() })?;
    y.to_dtype(DType::F32)
}

/// RMSNorm over the last dimension (Zhang & Sennrich 2019).
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + f64::from(eps))?.sqrt()?)?.broadcast_mul(weight)
}

/// Softmax over the last dimension.
pub(super) fn softmax(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

/// The product with a frozen weight.
struct Frozen {
    weight: Tensor,
}

fn multiply<S: BackendStorage>(x: &S, x_layout: &Layout, w: &S, w_layout: &Layout) -> Result<(S, Shape)> {
    let ((rows, inner), (out, _)) = (x_layout.shape().dims2()?, w_layout.shape().dims2()?);
    let y = x.matmul(w, (1, rows, out, inner), x_layout, &w_layout.transpose(0, 1)?)?;
    Ok((y, Shape::from((rows, out))))
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (weight, strides) = self.weight.storage_and_layout();
        let Storage::Cpu(weight) = &*weight else { bail!("a weight is not where its input is") };
        multiply(x, layout, weight, strides)
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (weight, strides) = self.weight.storage_and_layout();
        let Storage::Cuda(weight) = &*weight else { bail!("a weight is not where its input is") };
        multiply(x, layout, weight, strides)
    }

    fn metal_fwd(&self, x: &MetalStorage, layout: &Layout) -> Result<(MetalStorage, Shape)> {
        let (weight, strides) = self.weight.storage_and_layout();
        let Storage::Metal(weight) = &*weight else { bail!("a weight is not where its input is") };
        multiply(x, layout, weight, strides)
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        dy.contiguous()?.matmul(&self.weight).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;
    use half::{bf16, f16};
    use safetensors::Dtype;
    use safetensors::tensor::{TensorView, serialize_to_file};

    use super::*;
    use headstart_lm::Weights;

    /// Weights of 16 bits stay what they are; their product and its gradient are those of the
    /// widened ones but for the rounding of what is multiplied with them.
    #[test]
    fn narrow_weights_stay_narrow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let tenths: Vec<f32> = (0..12).map(|i| (i as f32 - 5.0) / 10.0).collect();
        let brain: Vec<u8> = tenths.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        let half: Vec<u8> = tenths.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let view = |dtype, data| TensorView::new(dtype, vec![3, 4], data).unwrap();
        let tensors = [("b", view(Dtype::BF16, &brain)), ("h", view(Dtype::F16, &half))];
        serialize_to_file(tensors, None, &path).unwrap();
        let weights = Weights::open(&[path]).unwrap();
        for (name, dtype) in [("b", DType::BF16), ("h", DType::F16)] {
            let weight = weights.need(name, &[3, 4]).unwrap();
            let (narrow, wide) = (put(&weight, &Device::Cpu).unwrap(), weight.to_vec());
            assert_eq!(narrow.dtype(), dtype);
            let x = Var::new(&[[0.3f32, -1.7, 0.9, 2.1]], &Device::Cpu).unwrap();
            let y = product(x.as_tensor(), &narrow).unwrap();
            let grads = y.sum_all().unwrap().backward().unwrap();
            let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let dot = |w: &[f32]| numbers(x.as_tensor()).iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
            for (found, row) in numbers(&y).iter().zip(wide.chunks(4)) {
                assert!((found - dot(row)).abs() < 0.02, "{name}: {found} and {}", dot(row));
            }
            for (i, found) in numbers(grads.get(&x).unwrap()).iter().enumerate() {
                let exact: f32 = wide.chunks(4).map(|row| row[i]).sum();
                assert!((found - exact).abs() < 0.02, "{name}: {found} and {exact}");
            }
            assert!(grads.get(&narrow).is_none(), "frozen tensors get no gradient");
        }
    }
}
