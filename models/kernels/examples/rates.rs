//! How fast weights are read by products with few rows, beside a plain reading of memory.
//!
//! `cargo run -p headstart-kernels --example rates [ROWS-OF-X…]` prints, for each type of weights,
//! gigabytes of weights a second by one thread and by two, the best of many short repetitions.
//! `HEADSTART_INSTRUCTION_SET` forces an instruction set.

use std::hint::black_box;
use std::time::Instant;

use half::{bf16, f16};
use headstart_kernels::isa;
use headstart_kernels::team::{Team, for_each};
use headstart_kernels::{Matrix, QuantType, QuantizedBlocks, Storage};

/// Rows and columns of a weight: larger than a share of the last cache.
const SHAPE: (usize, usize) = (32768, 2048);
/// Repetitions of which the fastest counts.
const ROUNDS: usize = 15;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    isa::check()?;
    let counts: Vec<usize> = std::env::args().skip(1).map(|a| a.parse()).collect::<Result<_, _>>()?;
    let counts = if counts.is_empty() { vec![1, 4, 16] } else { counts };
    println!("instruction set: {}", isa::in_use().name());
    let bytes: Vec<u8> = (0..SHAPE.0 * SHAPE.1 * 4).map(|i| (i * 37 % 59) as u8).collect();
    for threads in [1, 2] {
        println!("{threads} thread(s), GB/s of weights: plain reading {:.1}", read(&bytes, threads));
        for (name, size, data) in weights(&bytes) {
            let of = |n: &usize| format!("{n} row(s) {:.1}", product(data, size, *n, threads));
            println!("  {name:5} {}", counts.iter().map(of).collect::<Vec<_>>().join("  "));
        }
    }
    Ok(())
}

/// Weights of each type in the same bytes: their values do not matter, but are finite.
fn weights(bytes: &[u8]) -> Vec<(&'static str, usize, Storage<'_>)> {
    let numbers = SHAPE.0 * SHAPE.1;
    // SAFETY: every pattern of bits is a number, and the slices are aligned, or cut so that they are.
    let (f, h, b) =
        unsafe { (bytes.align_to::<f32>().1, bytes.align_to::<f16>().1, bytes.align_to::<bf16>().1) };
    let mut all = vec![
        ("f32", 4 * numbers, Storage::F32(&f[..numbers])),
        ("bf16", 2 * numbers, Storage::Bf16(&b[..numbers])),
        ("f16", 2 * numbers, Storage::F16(&h[..numbers])),
    ];
    for quant in QuantType::ALL {
        let size = numbers / quant.block() * quant.bytes();
        all.push((quant.name(), size, Storage::Quantized(QuantizedBlocks { quant, blocks: &bytes[..size] })));
    }
    all
}

/// The best of many rounds, in GB/s.
fn best(size: usize, mut round: impl FnMut()) -> f64 {
    let seconds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        round();
        start.elapsed().as_secs_f64()
    });
    size as f64 / seconds.fold(f64::INFINITY, f64::min) / 1e9
}

fn read(bytes: &[u8], threads: usize) -> f64 {
    const PIECE: usize = 1 << 20;
    let pieces = bytes.len() / PIECE;
    with(threads, || {
        best(bytes.len(), || {
            for_each(pieces, |i| {
                // SAFETY: words of any bits.
                let words = unsafe { bytes[i * PIECE..][..PIECE].align_to::<u64>().1 };
                black_box(words.iter().fold(0u64, |a, b| a | b));
            });
        })
    })
}

fn product(data: Storage, size: usize, n: usize, threads: usize) -> f64 {
    let (rows, cols) = SHAPE;
    let x: Vec<f32> = (0..n * cols).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect();
    let mut y = vec![0.0; n * rows];
    let w = Matrix::new(rows, cols, data);
    with(threads, || best(size, || w.forward_rounded(black_box(&mut y), &x, n)))
}

fn with<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
    let team = Team::new(threads);
    pool.install(|| team.lead(work))
}
