//! The program `kvasm`.

mod cli;
mod memory;

fn main() -> std::process::ExitCode {
    memory::give_back_large_buffers();
    cli::main()
}
