//! The program `kvasm`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
