//! Arrays written out item by item.
//!
//! Closures given to `array::from_fn` or `map` are not reliably inlined where target features are involved, and
//! then every vector goes through memory.

/// `[f(0), .. f(3)]`; the index is a constant.
macro_rules! four {
    (|$i:ident| $value:expr) => {
        $crate::unrolled::each!($i, $value, 0 1 2 3)
    };
}

/// `[f(0), .. f(7)]`; the index is a constant.
macro_rules! eight {
    (|$i:ident| $value:expr) => {
        $crate::unrolled::each!($i, $value, 0 1 2 3 4 5 6 7)
    };
}

macro_rules! each {
    ($i:ident, $value:expr, $($n:literal)+) => {
        [$({
            const $i: usize = $n;
            $value
        }),+]
    };
}
pub(crate) use each;
