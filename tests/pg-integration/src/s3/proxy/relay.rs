//! One request: passed on, or not, as the plan says.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, TRANSFER_ENCODING};
use hyper::http::response::Parts;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Shared;
use super::body::{Shaped, Stream};
use super::fault::{Fault, S3Error};
use super::journal::Entry;
use super::listing;
use super::operation::Operation;

pub(super) type Answer = Response<Shaped>;

/// Answers one request of a client whose connection is `client`, or cuts that connection.
pub(super) async fn answer(
    shared: Arc<Shared>,
    client: Arc<OwnedFd>,
    request: Request<Incoming>,
) -> io::Result<Answer> {
    let (parts, body) = request.into_parts();
    let (number, entry, latency) = shared.note(Entry::of(&parts));
    tokio::time::sleep(latency).await;
    let answer = match entry.fault {
        Some(Fault::ResetBeforeBody) => Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::Error(error)) => discard(body).await.map(|()| s3_error(error, &entry)),
        Some(Fault::Html(status)) => discard(body).await.map(|()| html(status)),
        Some(Fault::Hang) => match hang(discard(body).await?).await {},
        Some(Fault::RepeatedList) if let Some(earlier) = shared.earlier_list(&entry) => {
            Ok(page(StatusCode::OK, "application/xml", earlier))
        }
        _ => from_server(&shared, number, &entry, Request::from_parts(parts, body)).await,
    };
    match answer {
        Ok(answer) => {
            shared.answered(number, answer.status().as_u16());
            Ok(answer.map(|body| shape_answer(body, &entry)))
        }
        Err(e) => {
            // Closing then discards what is in flight and tells the peer so, instead of a polite end.
            let _ = rustix::net::sockopt::set_socket_linger(&*client, Some(Duration::ZERO));
            Err(e)
        }
    }
}

/// What the server says, and what is made of it. An error when it cannot be asked, or nobody is to hear the answer.
async fn from_server(
    shared: &Shared,
    number: usize,
    entry: &Entry,
    request: Request<Incoming>,
) -> io::Result<Response<Stream>> {
    if let Some(Fault::Delay(time)) = entry.fault {
        tokio::time::sleep(time).await;
    }
    let answered = forward(shared.server, request.map(|body| shape_request(body, entry))).await?;
    match entry.fault {
        Some(Fault::ResetAfterCommit) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::HangAfterCommit) => match hang(()).await {},
        _ => {}
    }
    let mut answer = if entry.operation == Operation::ListObjects {
        list(shared, number, entry, answered).await?
    } else {
        answered.map(boxed)
    };
    if entry.fault == Some(Fault::WrongETag) {
        answer.headers_mut().insert(ETAG, HeaderValue::from_static("\"0123456789abcdef0123456789abcdef\""));
    }
    Ok(answer)
}

fn shape_request(body: Incoming, entry: &Entry) -> Shaped {
    let mut body = Shaped::new(body, &entry.uploaded);
    match entry.fault {
        Some(Fault::ResetWithinBody(at)) => body.cut_at = Some(at),
        Some(Fault::SlowRequest(rate)) => body.bytes_per_second = Some(rate),
        _ => {}
    }
    body
}

fn shape_answer(body: Stream, entry: &Entry) -> Shaped {
    let mut body = Shaped::new(body, &entry.downloaded);
    match entry.fault {
        Some(Fault::Truncate(at)) => body.cut_at = Some(at),
        Some(Fault::SlowAnswer(rate)) => body.bytes_per_second = Some(rate),
        Some(Fault::FlipBit(at)) => body.flip_at = Some(at),
        _ => {}
    }
    body
}

async fn hang(_: ()) -> Infallible {
    std::future::pending().await
}

fn boxed<B>(body: B) -> Stream
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    body.map_err(io::Error::other).boxed_unsync()
}

/// Sends a request to the server on a connection of its own: none can have died unnoticed.
async fn forward(server: SocketAddr, request: Request<Shaped>) -> io::Result<Response<Incoming>> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends with the answer's body, or when the client takes no more of it.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(io::Error::other)
}

/// Takes a body and forgets it: a client that is still sending would not see the answer.
async fn discard(mut body: Incoming) -> io::Result<()> {
    while let Some(frame) = body.frame().await {
        frame.map_err(io::Error::other)?;
    }
    Ok(())
}

/// A LIST's answer: remembered for later, and perhaps not up to date.
async fn list(
    shared: &Shared,
    number: usize,
    entry: &Entry,
    answered: Response<Incoming>,
) -> io::Result<Response<Stream>> {
    let (mut parts, body) = answered.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    if parts.status == StatusCode::OK {
        shared.remember_list(entry, &body);
    }
    let hidden: HashSet<String> =
        if entry.fault == Some(Fault::StaleList) { shared.published_since_planned(number) } else { HashSet::new() };
    if hidden.is_empty() {
        return Ok(Response::from_parts(parts, boxed(Full::new(body))));
    }
    let text = listing::without(&String::from_utf8_lossy(&body), &hidden);
    forget_length(&mut parts);
    Ok(Response::from_parts(parts, boxed(Full::new(Bytes::from(text)))))
}

fn forget_length(parts: &mut Parts) {
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.remove(TRANSFER_ENCODING);
}

fn page(status: StatusCode, kind: &'static str, content: impl Into<Bytes>) -> Response<Stream> {
    let mut response = Response::new(boxed(Full::new(content.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn s3_error(error: S3Error, entry: &Entry) -> Response<Stream> {
    let status = StatusCode::from_u16(error.status).expect("faults have HTTP statuses");
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message><Resource>{}</Resource>\
         <RequestId>fault-proxy</RequestId></Error>",
        error.code, error.message, entry.path
    );
    page(status, "application/xml", xml)
}

fn html(status: u16) -> Response<Stream> {
    let status = StatusCode::from_u16(status).expect("faults have HTTP statuses");
    let text = "<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>\n";
    page(status, "text/html; charset=utf-8", text)
}
