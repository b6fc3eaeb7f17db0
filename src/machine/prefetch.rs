//! Asking the processor for memory ahead of its use.
//!
//! Accounts, calls and index of a busy partition take hundreds of megabytes, and every event needs some twenty lines of them
//! from all over. A load that is only made to have the line there later holds everything behind it up; a prefetch doesn't.
//! There is no safe way to say it. Measured with `reckon bench fold`.

#![allow(unsafe_code, reason = "one hint that reads nothing")]

const LINE_BYTES: usize = 64;

/// Asks for all lines of `thing`, without waiting. Does nothing where the processor has no such word.
#[inline(always)]
pub fn prefetch<T: ?Sized>(thing: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let from = std::ptr::from_ref(thing).cast::<i8>();
        let first = from.addr() / LINE_BYTES;
        let last = from.wrapping_add(size_of_val(thing).saturating_sub(1)).addr() / LINE_BYTES;
        for line in 0..=last.saturating_sub(first) {
            // SAFETY: a hint: it neither reads nor writes, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(line * LINE_BYTES)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = thing;
}
