//! `dead_letters`, `dead_letter_replay`.

use super::fault::Fault;
use super::kv::{async_function, at};
use super::memory::Guest;
use super::state::{GuestView, HostCalls};
use kvasm_abi::{LETTERS_DEFAULT, LETTERS_MAX, MODULE, Range32};
use kvasm_core::{Applied, Batch, DeadLetter, Invalid, Replay, Subject};
use kvasm_service::ServiceError;
use serde_json::json;
use uuid::Uuid;
use wasmtime::{Caller, Linker};

/// Maximum length of a dead letter's id.
const ID_BYTES_MAX: usize = 64;

pub(super) fn link<T: GuestView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    async_function!(
        linker,
        "dead_letters",
        dead_letters,
        (before, before_len, limit, out, cap)
    );
    async_function!(linker, "dead_letter_replay", replay, (id, len));
    Ok(())
}

fn id_of(text: &[u8]) -> Result<Uuid, Invalid> {
    Uuid::try_parse_ascii(text).map_err(|_| Invalid::Malformed {
        subject: Subject::Letter,
        why: "it is not a UUID",
    })
}

async fn replay<T: GuestView>(guest: &mut Guest<'_, T>, id: i32, len: i32) -> Result<i64, Fault> {
    let id = guest.read("id", Subject::Letter, at(id, len), ID_BYTES_MAX)?;
    let batch = Batch {
        replays: vec![Replay {
            letter: id_of(&id)?,
            is_required: false,
        }],
        ..Batch::default()
    };
    let state = guest.state();
    let commit = state.services.kv.commit(&state.context.caller, batch);
    let applied: Result<_, ServiceError> = state.meter.exclude(commit).await;
    let replayed = matches!(applied?.pop(), Some(Applied::Replayed { existed: true }));
    state.used.write(1, 0);
    Ok(i64::from(replayed))
}

async fn dead_letters<T: GuestView>(
    guest: &mut Guest<'_, T>,
    before: i32,
    before_len: i32,
    limit: i32,
    out: i32,
    cap: i32,
) -> Result<i64, Fault> {
    let out: Range32 = at(out, cap);
    guest.check("out", out)?;
    let before = at(before, before_len);
    let before = guest.read("before", Subject::Letter, before, ID_BYTES_MAX)?;
    let before = match before.as_slice() {
        b"" => None,
        text => Some(id_of(text)?),
    };
    let limit = match limit {
        0 => LETTERS_DEFAULT.cast_unsigned(),
        limit => limit.cast_unsigned(),
    };
    let most = LETTERS_MAX.cast_unsigned();
    if !(1..=most).contains(&limit) {
        return Err(Fault::from(Invalid::OutOfRange {
            subject: Subject::PageLimit,
            found: limit.into(),
            min: 1,
            max: most.into(),
        }));
    }
    let state = guest.state();
    let list = state
        .services
        .dead_letters
        .list(&state.context.caller, before, limit);
    let letters = state.meter.exclude(list).await?;
    guest
        .acquire_cpu_permit(letters.iter().map(|letter| letter.error.len()).sum())
        .await;
    let full = letters.len() == limit as usize;
    let next = letters.last().filter(|_| full).map(|letter| letter.id);
    let letters: Vec<_> = letters.iter().map(DeadLetter::to_plugin_json).collect();
    let answer = json!({ "letters": letters, "next": next });
    guest.answer(out, answer.to_string().into_bytes())
}
