//! A self-signed certificate of X.509 version 1, as some servers have.

use super::Cluster;
use super::system::{as_account, output};
use anyhow::Result;
use std::process::Command;

pub(super) const CERTIFICATE: &str = "server.crt";
pub(super) const KEY: &str = "server.key";

/// Creates the certificate in the cluster's folder, with openssl.
pub(super) fn make(cluster: &Cluster) -> Result<()> {
    let openssl = |arguments: &[&str]| {
        let folder = cluster.folder.path();
        let mut command = as_account(Command::new("openssl"), cluster.account, folder);
        output(command.args(arguments)).map(drop)
    };
    let subject = ["-subj", "/CN=somewhere.else"];
    let request = [
        "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", KEY,
    ];
    openssl(&[&request[..], &["-out", "server.csr"], &subject].concat())?;
    // A certificate signed without extensions is of version 1.
    let sign = ["x509", "-req", "-in", "server.csr", "-signkey", KEY];
    openssl(&[&sign[..], &["-days", "30", "-out", CERTIFICATE]].concat())?;
    // Postgres rejects a key that others can read.
    let mut chmod = as_account(
        Command::new("chmod"),
        cluster.account,
        cluster.folder.path(),
    );
    output(chmod.args(["600", KEY])).map(drop)
}
