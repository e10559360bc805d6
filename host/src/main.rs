//! The command line program `kvasm`: a thin door to the library.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
