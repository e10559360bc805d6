//! `print!`, `println!`, `eprint!`, `eprintln!` and `dbg!` that reach the app's log on every target.
//!
//! On `wasm32-unknown-unknown` those of the standard library write nowhere. These write to the app's
//! log there, a line for each use, without its last line break: `print!` and `println!` at the level
//! info, the others at warn. Elsewhere they are those of the standard library, which on `wasm32-wasip1`
//! go to the log too, with the same levels.
//!
//! ```
//! use kvasm_guest::print::{dbg, println};
//!
//! let total = dbg!(2 + 3) * 2;
//! println!("the total is {total}");
//! assert_eq!(total, 10);
//! ```

pub use crate::{
    __dbg as dbg, __eprint as eprint, __eprintln as eprintln, __print as print,
    __println as println,
};
use std::fmt::Arguments;

/// Prints text to the standard output, or to the standard error.
pub fn to(is_error: bool, text: Arguments<'_>) {
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    {
        use kvasm_abi::level::{INFO, WARN};
        let text = text.to_string();
        let line = text.strip_suffix('\n').unwrap_or(&text);
        crate::sys::log(if is_error { WARN } else { INFO }, line);
    }
    #[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
    match is_error {
        true => std::eprint!("{text}"),
        false => {
            std::print!("{text}");
            // The standard library keeps the last line until its line break, and an instance ends
            // without a flush.
            #[cfg(target_os = "wasi")]
            let _ = std::io::Write::flush(&mut std::io::stdout());
        }
    }
}

/// See [`print`](crate::print).
#[doc(hidden)]
#[macro_export]
macro_rules! __print {
    ($($arg:tt)*) => { $crate::__private::print(false, ::core::format_args!($($arg)*)) };
}

/// See [`print`](crate::print).
#[doc(hidden)]
#[macro_export]
macro_rules! __println {
    () => { $crate::__private::print(false, ::core::format_args!("\n")) };
    ($($arg:tt)*) => {
        $crate::__private::print(false, ::core::format_args!("{}\n", ::core::format_args!($($arg)*)))
    };
}

/// See [`print`](crate::print).
#[doc(hidden)]
#[macro_export]
macro_rules! __eprint {
    ($($arg:tt)*) => { $crate::__private::print(true, ::core::format_args!($($arg)*)) };
}

/// See [`print`](crate::print).
#[doc(hidden)]
#[macro_export]
macro_rules! __eprintln {
    () => { $crate::__private::print(true, ::core::format_args!("\n")) };
    ($($arg:tt)*) => {
        $crate::__private::print(true, ::core::format_args!("{}\n", ::core::format_args!($($arg)*)))
    };
}

/// See [`print`](crate::print). As in the standard library, the value is moved and returned.
#[doc(hidden)]
#[macro_export]
macro_rules! __dbg {
    () => { $crate::__eprintln!("[{}:{}:{}]", ::core::file!(), ::core::line!(), ::core::column!()) };
    ($value:expr $(,)?) => {
        // A `match` keeps temporaries of the expression alive.
        match $value {
            value => {
                $crate::__eprintln!(
                    "[{}:{}:{}] {} = {:#?}",
                    ::core::file!(),
                    ::core::line!(),
                    ::core::column!(),
                    ::core::stringify!($value),
                    &value
                );
                value
            }
        }
    };
    ($($value:expr),+ $(,)?) => { ($($crate::__dbg!($value)),+,) };
}
