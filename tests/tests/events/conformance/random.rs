//! Random sequences of calls and requests on the harness and on a host.

use super::plugin::{Expected, Range, Step, Text};
use super::web_calls::{
    Sent, answering_harness, answering_server, for_real, natively, outbound, plugin, sending_host,
    without,
};
use super::{ORIGIN, StepCall, deploy, input, on_harness, on_host};
use crate::event_host::EventHost;
use kvasm_guest::testing::Harness;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use std::cell::Cell;

fn address() -> impl Strategy<Value = (String, String)> {
    let c = prop_oneof![9 => "[ab]", 1 => Just(String::new())];
    let k = prop_oneof![12 => "[klm]", 1 => Just("k\0".to_owned()), 1 => Just("k/é".to_owned())];
    (c, k)
}

fn value() -> impl Strategy<Value = Text> {
    prop_oneof!["-?[1-9]", Just(i64::MAX.to_string()), "[a-z]{0,3}"].prop_map(|v| Text(v, 1))
}

fn expected() -> impl Strategy<Value = Expected> {
    prop_oneof![
        Just(Expected::Absent),
        Just(Expected::Current),
        Just(Expected::Wrong)
    ]
}

fn range() -> impl Strategy<Value = Range> {
    let text = || proptest::option::weighted(0.3, "[k-m/]{0,2}");
    let limit = proptest::option::weighted(0.5, 0..4_usize);
    (text(), text(), text(), limit, any::<bool>()).prop_map(
        |(prefix, start, end, limit, reverse)| Range {
            prefix,
            start,
            end,
            limit,
            reverse,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let at = address;
    let single = prop_oneof![
        at().prop_map(|(c, k)| Step::Get(c, k)),
        at().prop_map(|(c, k)| Step::GetBytes(c, k)),
        at().prop_map(|(c, k)| Step::Has(c, k)),
        (at(), value()).prop_map(|((c, k), v)| Step::Set(c, k, v)),
        (at(), value()).prop_map(|((c, k), v)| Step::SetBytes(c, k, v)),
        (at(), value(), expected()).prop_map(|((c, k), v, e)| Step::SetIf(c, k, v, e)),
        at().prop_map(|(c, k)| Step::Delete(c, k)),
        (at(), expected()).prop_map(|((c, k), e)| Step::DeleteIf(c, k, e)),
        (at(), -3..4_i64).prop_map(|((c, k), by)| Step::Increment(c, k, by)),
        (at(), -3..4_i64).prop_map(|((c, k), by)| Step::Add(c, k, by)),
        at().prop_map(|(c, k)| Step::Update(c, k)),
        proptest::collection::vec("[klm]", 0..4).prop_map(|keys| Step::GetMany("a".into(), keys)),
        ("[ab]", range()).prop_map(|(c, range)| Step::List(c, range)),
        fetch(),
        (range(), range())
            .prop_map(|(one, other)| { Step::OtherList("a".into(), one, "a".into(), other) }),
    ];
    single.prop_recursive(3, 24, 5, |inner| {
        let steps = || proptest::collection::vec(inner.clone(), 0..5);
        let check = (address(), expected()).prop_map(|((c, k), e)| (c, k, e));
        let checks = proptest::collection::vec(check, 0..3);
        prop_oneof![
            (steps(), any::<bool>()).prop_map(|(steps, fails)| Step::Transaction(steps, fails)),
            (checks, steps()).prop_map(|(checks, steps)| Step::Batch(checks, steps)),
        ]
    })
}

/// A request to the server whose origin the plugin declares, to another one, or to none.
fn fetch() -> impl Strategy<Value = Step> {
    let odd = [
        "http://u@127.0.0.1:65530/",
        "http://u:p@127.0.0.1:1/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:x/",
        "http://",
        "http:///a",
        "http://a b/",
        "http://a\u{7}/",
        "http://a..test/",
        "http://a.test./",
        "http://*.test/",
        "http://a.test:80",
        "HTTPS://A.test:443/a",
        "http://[::1]:65530/a",
        "ftp://127.0.0.1:65530/",
        "",
    ];
    let own = "(/[a-c.]{0,3}|/status/(200|404|503)){0,2}(\\?[a-c=&]{0,3})?(#a)?";
    let url = prop_oneof![
        4 => own.prop_map(|rest| format!("{ORIGIN}{rest}")),
        1 => select(odd.to_vec()).prop_map(str::to_owned),
    ];
    let methods = [
        "GET", "POST", "PUT", "DELETE", "get", "M-SEARCH", "CONNECT", "track", "", "A B",
    ];
    let method = prop_oneof![2 => Just("GET"), 1 => select(methods.to_vec())];
    let names = [
        "x-a",
        "X-A",
        "cookie",
        "traceparent",
        "Host",
        "te",
        "proxy-a",
        "",
        "a b",
        "\u{e9}",
    ];
    let name = prop_oneof![3 => Just("x-b"), 1 => select(names.to_vec())];
    let value = select(vec!["1", "", "\u{e9}\t", "a\r\nb", "\0"]);
    let headers = proptest::collection::vec((name, value), 0..3);
    (method, url, headers, "[a-b]{0,3}")
        .prop_map(|(method, url, headers, body)| outbound(method, &url, &headers, &body))
}

/// A request to the plugin.
fn request() -> impl Strategy<Value = Sent> {
    let segment = "(/[a-c]{0,2}|/%41|/%2f|/%ff|/%z|/\u{e9}|/){0,3}";
    let query = "(\\?(n=[0-9]{1,3}|[n&=%+]{0,3}))?";
    let steps = proptest::collection::vec(step(), 0..4);
    let seen = (segment, query).prop_map(|(path, query)| format!("/echo{path}{query}"));
    let entry = "/entries/[ab]";
    let tags = ["*", "\"none\"", "none", "\"a\", \"b\""];
    let names = ["if-match", "if-none-match", "x-a", "accept"];
    let headers = proptest::collection::vec((select(names.to_vec()), select(tags.to_vec())), 0..3);
    let method = select(vec![
        "GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "put",
    ]);
    let any = (
        method,
        prop_oneof![2 => seen, 3 => entry],
        headers,
        "[0-9]{0,2}",
    );
    prop_oneof![
        3 => any.prop_map(|(method, target, headers, body)| Sent { method, target, headers, body }),
        1 => steps.prop_map(|steps| Sent {
            method: "POST",
            target: "/steps".to_owned(),
            headers: Vec::new(),
            body: input(&steps),
        }),
    ]
}

/// What a plugin gets.
#[derive(Debug, Clone)]
enum Input {
    Call(StepCall),
    Request(Sent),
}

impl Input {
    fn on_harness(&self, harness: &mut Harness) -> Vec<String> {
        match self {
            Input::Call(call) => on_harness(harness, call),
            Input::Request(sent) => vec![natively(harness, sent)],
        }
    }

    async fn on_host(&self, host: &EventHost) -> Vec<String> {
        match self {
            Input::Call(call) => on_host(host, call).await,
            Input::Request(sent) => vec![for_real(host, sent).await],
        }
    }

    /// Names another origin, as the server's port is not known before it has started.
    fn to_origin(&self, origin: &str) -> Input {
        let replaced = |text: &str| text.replace(ORIGIN, origin);
        match self {
            Input::Call((function, steps)) => {
                let steps = serde_json::from_str(&replaced(&input(steps))).unwrap();
                Input::Call((function, steps))
            }
            Input::Request(sent) => Input::Request(Sent {
                body: replaced(&sent.body),
                ..sent.clone()
            }),
        }
    }
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let function = prop_oneof![
        4 => Just("steps"),
        2 => Just("transaction"),
        1 => Just("failing"),
        1 => Just("panicking")
    ];
    let call = (function, proptest::collection::vec(step(), 1..8));
    let input =
        prop_oneof![3 => call.prop_map(Input::Call), 1 => request().prop_map(Input::Request)];
    proptest::collection::vec(input, 1..6)
}

/// Random sequences of calls and requests. The smallest failing one is printed; `PROPTEST_CASES`
/// sets how many.
#[test]
fn harness_answers_as_a_host_to_random_calls() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (host, server) =
        runtime.block_on(async { (sending_host().await, answering_server().await) });
    let module = plugin(&server.origin);
    let apps = Cell::new(0);
    let cases = std::env::var("PROPTEST_CASES").ok();
    let config = Config {
        cases: cases.and_then(|cases| cases.parse().ok()).unwrap_or(200),
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&inputs(), |inputs| {
        let mut harness = answering_harness();
        let native: Vec<_> = inputs
            .iter()
            .map(|input| input.on_harness(&mut harness))
            .collect();
        let hosted = runtime.block_on(async {
            apps.set(apps.get() + 1);
            let host = host.neighbour(&format!("app{}", apps.get())).await;
            deploy(&host, module.clone(), &server.origin).await;
            let mut reports = Vec::new();
            for input in &inputs {
                reports.push(input.to_origin(&server.origin).on_host(&host).await);
            }
            reports
        });
        prop_assert_eq!(without(ORIGIN, &native), without(&server.origin, &hosted));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
