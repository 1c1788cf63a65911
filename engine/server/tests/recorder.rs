//! The recorder that other tests prove privacy with records what crosses.

#[allow(dead_code, reason = "every test uses its part")]
mod record;

use record::{Recorded, Recorder, messages};
use tokio::net::TcpListener;

#[test]
fn messages_are_read_with_lengths_chunks_and_none() {
    let bytes = b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloPUT /b HTTP/1.1\r\nTransfer-Encoding: \
        chunked\r\n\r\n3\r\nsec\r\n3\r\nret\r\n0\r\n\r\nGET /c HTTP/1.1\r\nhost: x\r\n\r\n";
    let seen: Vec<_> = messages(bytes).into_iter().map(|m| (m.first, m.body)).collect();
    let expected = [("POST /a HTTP/1.1", "hello"), ("PUT /b HTTP/1.1", "secret"), ("GET /c HTTP/1.1", "")];
    assert_eq!(seen, expected.map(|(a, b)| (a.to_owned(), b.as_bytes().to_vec())));
}

#[tokio::test]
async fn a_served_connection_is_recorded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("bound");
    let recorder = Recorder::new();
    let app = axum::Router::new().route("/x", axum::routing::post(async |body: String| body.to_uppercase()));
    let serve = axum::serve(Recorded::new(listener, recorder.clone()), app);
    let server = tokio::spawn(async move { serve.await });
    let url = format!("http://{addr}/x");
    let me = headstart_transport::Identity::from_secret(&[1; 32]);
    let tls = headstart_transport::tls::client_config(&me, me.public()).expect("a key");
    let client =
        reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls).build().expect("client");
    let answer = client.post(url).body("a secret").send().await.expect("sent").text().await.expect("text");
    assert_eq!(answer, "A SECRET");
    server.abort();
    assert!(recorder.received_contains(b"a secret") && !recorder.received_contains(b"A SECRET"));
    let (requests, responses) = (recorder.requests(), recorder.responses());
    assert_eq!((requests[0].first.as_str(), &*requests[0].body), ("POST /x HTTP/1.1", &b"a secret"[..]));
    assert_eq!((responses[0].first.as_str(), &*responses[0].body), ("HTTP/1.1 200 OK", &b"A SECRET"[..]));
}
