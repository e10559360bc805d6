//! Guests that compute, and what the others feel of it.

use super::kit::{Neighbour, Stage};
use kvasm_tests::guests::module;
use std::sync::Arc;

/// 40 clients of one app's endless function.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_calls_of_one_app_leave_the_neighbour_its_calls_and_deliveries() {
    let stage = Stage::with(|builder| builder.instances(100)).await;
    let neighbour = Arc::new(Neighbour::new(&stage, "neighbour").await);
    stage
        .server
        .deployed("endless", module("", "(loop (br 0)) unreachable"))
        .await;
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let api = stage.server.anonymous();
            tokio::spawn(async move { api.call("endless", "run", "").await.status })
        })
        .collect();
    let watch = neighbour.watch();
    for client in clients {
        let status = client.await.unwrap();
        assert_ne!(status, 200);
    }
    watch.end().await.nothing();
    neighbour.delivered(&stage).await;
    stage.stop().await;
}
