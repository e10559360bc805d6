//! Pages of plugins: below a path, in the sandbox, and at host names of their own.

use super::calls::{echo, echoed};
use kvasm::server::{PageOptions, ServerOptions};
use kvasm_tests::server::{ApiResponse, Server};

const HEAD: &str = r#"{"status":200,"headers":[["set-cookie","a=1; Domain=apps.test; Path=/"],
    ["set-cookie","__Host-b=1; Secure; Path=/"],["service-worker-allowed","/"],
    ["clear-site-data","\"cookies\""],["www-authenticate","Basic realm=\"quiet\""],
    ["content-security-policy","default-src 'self'"]]}"#;

async fn server(pages: PageOptions) -> Server {
    let options = ServerOptions {
        pages,
        ..ServerOptions::default()
    };
    let server = Server::with_options(options).await;
    server.deployed("shop", echo(HEAD)).await;
    server.deployed("neighbour", echo("{\"status\":200}")).await;
    server
}

fn below_domain() -> PageOptions {
    PageOptions {
        domain: Some("apps.test".parse().unwrap()),
        ..PageOptions::default()
    }
}

async fn get(server: &Server, hosts: &[&str], target: &str) -> ApiResponse {
    let hosts: String = hosts
        .iter()
        .map(|host| format!("Host: {host}\r\n"))
        .collect();
    let request = format!("GET {target} HTTP/1.1\r\n{hosts}\r\n");
    server.raw(request.as_bytes()).await
}

fn all<'r>(response: &'r ApiResponse, name: &str) -> Vec<&'r str> {
    let values = response.headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn app_has_an_origin_of_its_own_below_the_domain() {
    let server = server(below_domain()).await;
    let answer = get(&server, &["SHOP.apps.test:7180"], "/x?y=1")
        .await
        .expect(200);
    let head = echoed(&answer);
    assert_eq!(
        (&head["path"], &head["query"]),
        (&"/x".into(), &"y=1".into())
    );
    assert_eq!(head["mount"], "");
    assert_eq!(head["authority"], "shop.apps.test:7180");
    assert_eq!(
        all(&answer, "set-cookie"),
        ["a=1; Path=/", "__Host-b=1; Secure; Path=/"]
    );
    assert_eq!(answer.header("service-worker-allowed"), "/");
    assert_eq!(answer.header("www-authenticate"), "Basic realm=\"quiet\"");
    // It would clear the cookies of the neighbour and of the server too.
    assert_eq!(answer.header("clear-site-data"), "");
    assert_eq!(
        all(&answer, "content-security-policy"),
        ["default-src 'self'"]
    );
    // The path form still works, at the server's own name.
    let answer = get(&server, &["apps.test"], "/a/shop/x").await.expect(200);
    assert_eq!(echoed(&answer)["mount"], "/a/shop");
    assert_eq!(all(&answer, "content-security-policy").len(), 2);
    assert_eq!(answer.header("www-authenticate"), "");
}

/// What the plugin's page requests from its own origin goes to the plugin, whatever the path.
#[tokio::test]
async fn no_other_route_is_reachable_at_the_host_of_an_app() {
    let server = server(below_domain()).await;
    let token = server.root.secret().to_owned();
    for path in [
        "/v1/apps",
        "/v1/apps/neighbour/kv/collections",
        "/metrics",
        "/healthz",
        "/a/neighbour/x",
        "/a/../v1/apps",
        "//v1/apps",
        "/%2e%2e/v1/apps",
    ] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: shop.apps.test\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        let answer = server.raw(request.as_bytes()).await.expect(200);
        assert_eq!(echoed(&answer)["path"], path);
    }
}

#[tokio::test]
async fn strange_hosts_reach_no_app() {
    let server = server(below_domain()).await;
    let token = server.root.secret().to_owned();
    for hosts in [
        &["a.shop.apps.test"][..],
        &[".apps.test"],
        &["%73hop.apps.test"],
        &["shop.apps.test", "neighbour.apps.test"],
        &["apps.test", "shop.apps.test"],
    ] {
        let named: String = hosts
            .iter()
            .map(|host| format!("Host: {host}\r\n"))
            .collect();
        for path in ["/x", "/v1/apps"] {
            let request =
                format!("GET {path} HTTP/1.1\r\n{named}Authorization: Bearer {token}\r\n\r\n");
            let answer = server.raw(request.as_bytes()).await;
            assert!((400..500).contains(&answer.status), "{hosts:?} {path}");
            assert!(!answer.text().contains("neighbour"), "{hosts:?} {path}");
        }
    }
    let none = get(&server, &["none.apps.test"], "/x").await;
    none.expect_problem(401, "token-required");
    // The name in the target takes precedence over the header.
    let target = "http://shop.apps.test/x";
    let answer = get(&server, &["neighbour.apps.test"], target)
        .await
        .expect(200);
    assert_eq!(all(&answer, "set-cookie").len(), 2);
}

#[tokio::test]
async fn path_form_can_be_turned_off() {
    let server = server(PageOptions {
        paths: false,
        ..below_domain()
    })
    .await;
    for path in ["/a/shop", "/a/shop/", "/a/shop/x"] {
        let refused = get(&server, &["apps.test"], path).await;
        refused.expect_problem(404, "route-not-found");
    }
    get(&server, &["shop.apps.test"], "/x").await.expect(200);
    let call = "/v1/apps/shop/functions";
    server.root.get(call).await.expect(200);
}
