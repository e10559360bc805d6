//! What the help of each command shows: its own options first, and of the options of every command only
//! those that it reads.

use clap::{Command, CommandFactory, Id};

/// The commands that neither a server nor, with some, a store concerns, and the global options that
/// they read.
const READ_BY: [(&str, &[&str]); 6] = [
    ("new", &["json"]),
    ("build", &["config", "json"]),
    ("dev", &["store", "config"]),
    ("test", &["config"]),
    ("inspect", &["config", "json"]),
    ("run", &["store", "config", "json"]),
];

/// After the options of a command, and before `--help`.
const LAST: usize = 900;

/// Returns the command line of `C`.
pub(super) fn command<C: CommandFactory>() -> Command {
    let mut command = C::command();
    let global = command.get_arguments();
    let global = global.filter(|argument| argument.is_global_set());
    let global: Vec<Id> = global.map(|argument| argument.get_id().clone()).collect();
    // Gives each command the global options.
    command.build();
    command.mut_subcommands(|command| {
        let read = READ_BY.iter().find(|(name, _)| *name == command.get_name());
        arrange(command, &global, read.map(|(_, ids)| *ids))
    })
}

/// Arranges the help of a command that reads these global options, or all.
fn arrange(command: Command, global: &[Id], read: Option<&'static [&'static str]>) -> Command {
    let command = command.mut_args(|argument| {
        let Some(place) = global.iter().position(|id| id == argument.get_id()) else {
            return argument;
        };
        let is_read = read.is_none_or(|ids| ids.iter().any(|id| argument.get_id() == id));
        argument.display_order(LAST + place).hide(!is_read)
    });
    command.mut_subcommands(|command| arrange(command, global, read))
}
