//! Counts what a thread allocates. The counters are the thread's own: what is measured with them has to stay on one.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

/// How often this thread has allocated so far, growing included.
pub(crate) fn count() -> u64 {
    ALLOCATIONS.get()
}

/// The bytes that this thread has allocated less those it has freed. Only differences mean anything.
pub(crate) fn live_bytes() -> isize {
    LIVE.get()
}

struct Counting;

fn add(allocations: u64, bytes: isize) {
    ALLOCATIONS.set(ALLOCATIONS.get() + allocations);
    LIVE.set(LIVE.get().wrapping_add(bytes));
}

// SAFETY: everything is left to the system's allocator. The counters are plain cells, which need neither memory nor a
// destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(1, layout.size().cast_signed());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(1, layout.size().cast_signed());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(1, size.cast_signed() - layout.size().cast_signed());
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(0, -layout.size().cast_signed());
        unsafe { System.dealloc(pointer, layout) }
    }
}
