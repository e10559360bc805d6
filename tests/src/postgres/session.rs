//! A psql session that stays open, to hold locks and snapshots.

use super::Cluster;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// Printed by psql after each result.
const END: &str = "-- the end --";

/// A psql process that waits for statements. Dropping it ends its session.
pub struct Session {
    client: Child,
    statements: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Session {
    /// Connects to a database of a cluster.
    ///
    /// # Errors
    /// Returns the output of psql if the server refuses the connection.
    pub fn start(cluster: &Cluster, database: &str) -> Result<Session> {
        let mut command = cluster.command("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        command.arg("-d").arg(cluster.url(database));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut client = command.spawn().context("cannot start `psql`")?;
        let statements = client.stdin.take();
        let answers = client.stdout.take().context("psql has no stdout")?;
        let mut session = Session {
            client,
            statements,
            answers: BufReader::new(answers),
        };
        session.run("SELECT 1").map(|_| session)
    }

    /// Runs statements and returns what they print.
    pub fn run(&mut self, sql: &str) -> Result<String> {
        let statements = self.statements.as_mut().context("psql has no stdin")?;
        // If psql has ended, the reason is read below.
        let _ = writeln!(statements, "{sql};\n\\echo {END}").and_then(|()| statements.flush());
        let mut text = String::new();
        loop {
            let mut line = String::new();
            if self.answers.read_line(&mut line)? == 0 {
                let mut why = String::new();
                if let Some(mut stderr) = self.client.stderr.take() {
                    std::io::Read::read_to_string(&mut stderr, &mut why)?;
                }
                bail!("psql has ended: {why}");
            }
            if line.trim_end() == END {
                return Ok(text.trim_end().to_owned());
            }
            text.push_str(&line);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.statements.take());
        // There is no more output.
        let _ = self.client.wait();
    }
}
