use std::net::TcpStream;

use super::*;

#[test]
fn cluster_keeps_its_data_across_a_restart() {
    let mut cluster = Cluster::start(Options {
        durable: true,
        ..Options::default()
    })
    .unwrap();
    cluster.create_database("notes").unwrap();
    cluster
        .psql("notes", "CREATE TABLE t (n int); INSERT INTO t VALUES (7)")
        .unwrap();
    let url = cluster.url("notes");

    for how in [Stop::Fast, Stop::Immediate] {
        cluster.stop(how).unwrap();
        assert!(!cluster.is_running());
        assert!(cluster.psql("notes", "SELECT 1").is_err());
        cluster.restart().unwrap();
        assert!(cluster.is_running());
        assert_eq!(cluster.url("notes"), url);
        assert_eq!(cluster.psql("notes", "SELECT n FROM t").unwrap(), "7");
    }
    cluster.restart().unwrap();
    assert_eq!(cluster.psql("postgres", "SHOW fsync").unwrap(), "on");
    assert_eq!(
        cluster.psql("postgres", "SHOW max_connections").unwrap(),
        "200"
    );
}

#[test]
fn killed_cluster_recovers_acknowledged_commits() {
    let mut cluster = Cluster::start(Options::default()).unwrap();
    cluster.psql("postgres", "CREATE TABLE t (n int)").unwrap();
    for n in 0..3 {
        cluster
            .psql("postgres", &format!("INSERT INTO t VALUES ({n})"))
            .unwrap();
        cluster.kill().unwrap();
        assert!(!cluster.is_running());
        cluster.restart().unwrap();
    }
    assert_eq!(
        cluster.psql("postgres", "SELECT count(*) FROM t").unwrap(),
        "3"
    );
}

#[test]
fn dropped_cluster_leaves_no_files_or_processes() {
    let cluster = Cluster::start(Options::default()).unwrap();
    let (folder, port) = (cluster.folder.path().to_path_buf(), cluster.port());
    assert!(folder.exists());
    drop(cluster);
    assert!(!folder.exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn databases_of_the_shared_cluster_are_independent() {
    let urls: Vec<String> = thread::scope(|scope| {
        let makers: Vec<_> = (0..4).map(|_| scope.spawn(fresh_database)).collect();
        makers
            .into_iter()
            .map(|maker| maker.join().unwrap())
            .collect()
    });
    for url in &urls {
        let name = url.rsplit_once('/').unwrap().1;
        shared().psql(name, "CREATE TABLE t (n int)").unwrap();
    }
}

#[test]
fn default_collation_is_not_bytewise() {
    assert_eq!(shared().psql("postgres", "SELECT 'a' < 'B'").unwrap(), "t");
    assert_eq!(
        shared()
            .psql("postgres", "SELECT 'a' COLLATE \"C\" < 'B'")
            .unwrap(),
        "f"
    );
}

#[test]
fn failed_statement_returns_its_reason() {
    let error = shared()
        .psql("postgres", "SELECT 1; SELECT nonsense")
        .unwrap_err();
    assert!(error.to_string().contains("nonsense"), "{error:#}");
}

/// Not a test: the process that the next test kills.
#[test]
fn helper_process_to_kill() {
    if let Some(report) = std::env::var_os("KVASM_TEST_CLUSTER_REPORT") {
        let cluster = shared();
        let partial = Path::new(&report).with_extension("partial");
        fs::write(
            &partial,
            format!("{}\n{}", cluster.port(), cluster.folder.path().display()),
        )
        .unwrap();
        fs::rename(&partial, &report).unwrap();
        thread::sleep(Duration::from_secs(120));
    }
}

#[test]
fn cluster_stops_when_its_process_is_killed() {
    let reports = tempfile::tempdir().unwrap();
    let report = reports.path().join("report");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["helper_process_to_kill", "--nocapture"])
        .env("KVASM_TEST_CLUSTER_REPORT", &report)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the cluster of the other process", || report.exists());
    let text = fs::read_to_string(&report).unwrap();
    let (port, folder) = text.split_once('\n').unwrap();
    let port: u16 = port.parse().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());

    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the server to stop", || {
        TcpStream::connect(("127.0.0.1", port)).is_err()
    });
    wait_for("the folder to go", || !Path::new(folder).exists());
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "waited a minute for {what}"
        );
        thread::sleep(POLL_INTERVAL);
    }
}
