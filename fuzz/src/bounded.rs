//! Memory with a limit: what asks for more than a parser may use is a finding.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that may be in use at once, libFuzzer's corpus aside, which is not allocated here.
const MOST: usize = 512 << 20;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which ends the process where more than 512 MiB are asked for.
pub struct Bounded;

fn take(bytes: usize) {
    let before = IN_USE.fetch_add(bytes, Ordering::Relaxed);
    if before.saturating_add(bytes) > MOST {
        // Nothing may be allocated here; libFuzzer takes the abort for a crash and keeps the input.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"FINDING: more than 512 MiB in use\n");
        std::process::abort();
    }
}

// SAFETY: every call goes to the system's allocator unchanged; only numbers are added up.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        take(new);
        let moved = unsafe { System.realloc(at, layout, new) };
        IN_USE.fetch_sub(if moved.is_null() { new } else { layout.size() }, Ordering::Relaxed);
        moved
    }
}
