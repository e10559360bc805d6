//! The exports of the program under test, which the macros register before it starts.

use std::any::TypeId;
use std::sync::{OnceLock, RwLock};

/// An export's function, and the type of the function that carries the attribute.
type Function = (fn() -> i32, fn() -> TypeId);

/// What one use of a macro declares.
pub struct Registration {
    lines: &'static str,
    function: Option<Function>,
    place: (&'static str, u32),
    next: OnceLock<Option<&'static Registration>>,
}

/// The registration that was added last. Its lock does not allocate, so it works before `main`.
static LAST: RwLock<Option<&'static Registration>> = RwLock::new(None);

impl Registration {
    /// Returns what declares these lines of the manifest, at this place.
    pub const fn new(
        lines: &'static str,
        function: Option<Function>,
        place: (&'static str, u32),
    ) -> Registration {
        Registration {
            lines,
            function,
            place,
            next: OnceLock::new(),
        }
    }

    /// Adds it. Called once, before `main`, where a panic would abort the program.
    pub fn add(&'static self) {
        if let Ok(mut last) = LAST.write() {
            let next = last.replace(self);
            let _ = self.next.set(next);
        }
    }
}

/// Returns the type of a function.
pub fn type_id<F: 'static>(_: &F) -> TypeId {
    TypeId::of::<F>()
}

/// Registers manifest lines, and an export's function if given.
#[doc(hidden)]
#[macro_export]
macro_rules! __register {
    ($lines:expr, $function:expr) => {
        const _: () = {
            static REGISTRATION: $crate::__private::Registration =
                $crate::__private::Registration::new(
                    $lines,
                    $function,
                    (::core::file!(), ::core::line!()),
                );
            extern "C" fn add() {
                REGISTRATION.add();
            }
            // Each section is a list of functions without arguments, which run before `main`.
            #[used]
            #[allow(unsafe_code)]
            // SAFETY: it is such a function.
            #[cfg_attr(
                all(unix, not(target_vendor = "apple")),
                unsafe(link_section = ".init_array")
            )]
            // SAFETY: as above.
            #[cfg_attr(
                target_vendor = "apple",
                unsafe(link_section = "__DATA,__mod_init_func")
            )]
            // SAFETY: as above.
            #[cfg_attr(windows, unsafe(link_section = ".CRT$XCU"))]
            static ADD: extern "C" fn() = add;
        };
    };
}

/// One declaration of the plugin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Declared {
    pub(super) line: &'static str,
    pub(super) function: Option<Function>,
    pub(super) place: (&'static str, u32),
}

/// Returns all declarations of the program.
pub(super) fn declared() -> Vec<Declared> {
    let mut all = Vec::new();
    let mut next = LAST.read().map_or(None, |last| *last);
    while let Some(registration) = next {
        let Registration {
            lines,
            function,
            place,
            ..
        } = registration;
        all.extend(lines.lines().map(|line| Declared {
            line,
            function: *function,
            place: *place,
        }));
        next = registration.next.get().copied().flatten();
    }
    // The order of constructors is the linker's.
    all.sort_by_key(|declared| (declared.place, declared.line));
    all
}
