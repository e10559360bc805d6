//! A plugin with a module of a little over 1 MiB, all of it reachable code.

use kvasm_guest::{Error, Json};

/// One of many functions with different constants, so that each is compiled separately.
#[inline(never)]
fn step<const N: u64>(mut x: u64) -> u64 {
    let mut odd = N * 2 + 0x9e37_79b9;
    let mut round = 0;
    while round < N % 3 + 1 {
        x = (x ^ (x >> 30)).wrapping_mul(odd | 1);
        x = (x ^ (x << 13)).wrapping_add(N * 0x0101_0101);
        x ^= x.rotate_left((N % 61) as u32);
        match x % 8 {
            0 => x = x.wrapping_add(N * 3_000_017),
            1 => x = x.wrapping_sub(N * 5_000_011),
            2 => x = x.wrapping_mul(N * 7_000_022 + 1),
            3 => x ^= N * 11_000_027,
            4 => x = x.rotate_right((N % 59) as u32) ^ (N * 13_000_027),
            5 => x = !x ^ (N * 17_000_023),
            6 => x = x.wrapping_mul(x | 1).wrapping_add(N * 19_000_013),
            _ => x = x.swap_bytes() ^ (N * 23_000_009),
        }
        odd = odd.wrapping_add(x);
        round += 1;
    }
    x
}

macro_rules! one {
    ($x:ident, $n:expr) => {
        $x = step::<{ $n }>($x);
    };
}

macro_rules! ten_times {
    ($each:ident, $x:ident, $n:expr) => {
        $each!($x, $n * 10);
        $each!($x, $n * 10 + 1);
        $each!($x, $n * 10 + 2);
        $each!($x, $n * 10 + 3);
        $each!($x, $n * 10 + 4);
        $each!($x, $n * 10 + 5);
        $each!($x, $n * 10 + 6);
        $each!($x, $n * 10 + 7);
        $each!($x, $n * 10 + 8);
        $each!($x, $n * 10 + 9);
    };
}

macro_rules! ten {
    ($x:ident, $n:expr) => {
        ten_times!(one, $x, ($n))
    };
}

macro_rules! hundred {
    ($x:ident, $n:expr) => {
        ten_times!(ten, $x, ($n))
    };
}

macro_rules! thousand {
    ($x:ident, $n:expr) => {
        ten_times!(hundred, $x, ($n))
    };
}

/// Calls each of them once.
#[kvasm_guest::function]
fn steps() -> Result<Json<u64>, Error> {
    let mut x = 7;
    thousand!(x, 1);
    thousand!(x, 2);
    thousand!(x, 3);
    hundred!(x, 40);
    Ok(Json(x))
}
