//! Files: whole or by range, and uploads.

use std::io::SeekFrom;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use headstart_disk::files::NewFile;
use headstart_disk::{DiskError, DiskFile};
use headstart_driver::hub::{Session, Upload, codes};
use headstart_protocol::Digest;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::app::{App, digest};
use crate::guard::Caller;
use crate::reply::Refusal;

/// Bytes read from disk at once.
const CHUNK: usize = 256 << 10;

pub(crate) async fn get(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    let digest = digest(&name)?;
    let asked = tokio::task::spawn_blocking(move || app.hub.blob(&session, &digest)).await;
    let at = asked.map_err(|e| Refusal::internal("the engine failed", &e))??;
    file(&at, &digest, &headers).await
}

/// A file as an answer. Its content never changes, so its digest is a strong ETag.
async fn file(at: &FilePath, digest: &Digest, headers: &HeaderMap) -> Result<Response, Refusal> {
    let failed = |e: std::io::Error| Refusal::internal("the file cannot be read", &e);
    let etag = format!("\"{digest}\"");
    let mut open = tokio::fs::File::open(at).await.map_err(failed)?;
    let size = open.metadata().await.map_err(failed)?.len();
    let mut out = HeaderMap::new();
    let mut set = |name, value: String| {
        out.insert(name, HeaderValue::try_from(value).expect("digits and ASCII words fit a header"));
    };
    set(header::ETAG, etag.clone());
    set(header::ACCEPT_RANGES, "bytes".into());
    set(header::CACHE_CONTROL, "private, max-age=31536000, immutable".into());
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let known =
        text(header::IF_NONE_MATCH).is_some_and(|v| v == "*" || v.split(',').any(|t| t.trim() == etag));
    if known {
        return Ok((StatusCode::NOT_MODIFIED, out).into_response());
    }
    let unchanged = text(header::IF_RANGE).is_none_or(|t| t == etag);
    let asked = text(header::RANGE).filter(|_| unchanged).map_or(Asked::Whole, |r| range(r, size));
    let (status, part) = match asked {
        Asked::Whole => (StatusCode::OK, 0..size),
        Asked::Part(part) => {
            set(header::CONTENT_RANGE, format!("bytes {}-{}/{size}", part.start, part.end - 1));
            (StatusCode::PARTIAL_CONTENT, part)
        }
        Asked::Outside => {
            set(header::CONTENT_RANGE, format!("bytes */{size}"));
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, out).into_response());
        }
    };
    set(header::CONTENT_TYPE, "application/octet-stream".into());
    set(header::CONTENT_LENGTH, (part.end - part.start).to_string());
    open.seek(SeekFrom::Start(part.start)).await.map_err(failed)?;
    let body = ReaderStream::with_capacity(open.take(part.end - part.start), CHUNK);
    Ok((status, out, Body::from_stream(body)).into_response())
}

#[derive(Debug, PartialEq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    Outside,
}

/// The part that a `Range` header asks for. A header that cannot be parsed is ignored, as RFC 9110 §14.2
/// has it; several ranges at once are not served.
fn range(header: &str, size: u64) -> Asked {
    let Some((first, last)) = header.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else {
        return Asked::Whole;
    };
    let part = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(a), Ok(b)) if a <= b => a..b.saturating_add(1).min(size),
        (Ok(a), Err(_)) if last.trim().is_empty() => a..size,
        (Err(_), Ok(n)) if first.trim().is_empty() => size.saturating_sub(n)..size,
        _ => return Asked::Whole,
    };
    if part.start < part.end { Asked::Part(part) } else { Asked::Outside }
}

pub(crate) async fn put(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Extension(session): Extension<Session>,
    Path(name): Path<String>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let digest = digest(&name)?;
    if caller.body.is_some_and(|signed| signed != digest) {
        let message = "the upload is not the one that the device signed";
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, codes::UNPROVEN, message));
    }
    let hub = app.hub.clone();
    let begun = tokio::task::spawn_blocking(move || hub.begin_upload(&session, &digest)).await;
    let upload = begun.map_err(|e| Refusal::internal("the engine failed", &e))??;
    let size = upload.size();
    match body.size_hint().exact() {
        Some(stated) if stated == size => {}
        Some(stated) => {
            let message = format!("the upload has {stated} bytes, and the commit says {size}");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, codes::INVALID, message));
        }
        None => {
            let message = "the upload does not state its size";
            return Err(Refusal::new(StatusCode::LENGTH_REQUIRED, codes::INVALID, message));
        }
    }
    let limit = app.limits.body + Duration::from_secs(size / app.limits.slowest_upload.max(1));
    let store = store(&app, body, &upload);
    let stored = tokio::time::timeout(limit, store).await.map_err(|_| {
        Refusal::new(StatusCode::REQUEST_TIMEOUT, codes::INVALID, "the upload did not arrive in time")
    });
    let (file, temp) = stored??;
    let done = tokio::task::spawn_blocking(move || {
        let written = file.sync().map_err(DiskError::at("write", &temp));
        written.map_err(|e| {
            // What is not whole has no use.
            let _ = app.hub.disk().remove_file(&temp);
            Refusal::internal("the upload cannot be stored", &e)
        })?;
        Ok::<_, Refusal>(upload.finish(&temp)?)
    })
    .await;
    done.map_err(|e| Refusal::internal("the engine failed", &e))??;
    Ok(StatusCode::NO_CONTENT)
}

/// Writes an upload to a file that is removed when it breaks off.
async fn store(app: &App, mut body: Body, upload: &Upload) -> Result<(Box<dyn DiskFile>, PathBuf), Refusal> {
    let failed = |e: DiskError| Refusal::internal("the upload cannot be stored", &e);
    let disk = Arc::clone(app.hub.disk());
    // Removed when the upload breaks off.
    let mut out = NewFile::in_dir(&*disk, upload.dir(), "upload-").map_err(failed)?;
    let temp = out.path().to_owned();
    let stalled = || {
        let message = "nothing of the upload arrived for too long";
        Refusal::new(StatusCode::REQUEST_TIMEOUT, codes::INVALID, message)
    };
    // One that stalls keeps the same upload of a device that connected again from beginning.
    while let Some(chunk) =
        tokio::time::timeout(app.limits.body, next(&mut body)).await.map_err(|_| stalled())?
    {
        let chunk = chunk.map_err(|_| Refusal::invalid("the upload broke off"))?;
        upload.writes(chunk.len() as u64)?;
        // A chunk goes into the system's memory in microseconds; only the sync at the end takes long.
        out.file().write_all(&chunk).map_err(|e| failed(DiskError::at("write", &temp)(e)))?;
    }
    Ok(out.keep())
}

/// The next chunk of a body.
async fn next(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    // A frame without data is a trailer; it says nothing.
    Some(frame.map(|f| f.into_data().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        use Asked::{Outside, Part, Whole};
        for (header, asked) in [
            ("bytes=0-", Part(0..10)),
            ("bytes=3-", Part(3..10)),
            ("bytes=3-5", Part(3..6)),
            ("bytes=3-99", Part(3..10)),
            ("bytes=-4", Part(6..10)),
            ("bytes=-99", Part(0..10)),
            ("bytes=10-", Outside),
            ("bytes=-0", Outside),
            ("bytes=5-3", Whole),
            ("bytes=0-1,4-5", Whole),
            ("bytes=x-", Whole),
            ("lines=0-1", Whole),
        ] {
            assert_eq!(range(header, 10), asked, "{header}");
        }
        assert_eq!(range("bytes=0-", 0), Outside);
    }

    async fn ask(at: &FilePath, headers: &[(header::HeaderName, &str)]) -> (u16, HeaderMap, Vec<u8>) {
        let given = headers.iter().map(|(k, v)| (k.clone(), HeaderValue::from_str(v).expect("ASCII")));
        let digest = Digest::of(&std::fs::read(at).expect("readable"));
        let (parts, body) = file(at, &digest, &given.collect()).await.expect("served").into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.expect("whole");
        (parts.status.as_u16(), parts.headers, bytes.to_vec())
    }

    #[tokio::test]
    async fn a_file_is_served_whole_in_part_or_not_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = dir.path().join("file");
        let content: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&at, &content).expect("writes");
        let (status, headers, body) = ask(&at, &[]).await;
        assert_eq!((status, body.len()), (200, content.len()));
        assert!(body == content);
        let etag = headers[header::ETAG].to_str().expect("ASCII").to_owned();
        assert_eq!(etag, format!("\"{}\"", Digest::of(&content)));

        let (status, headers, body) = ask(&at, &[(header::RANGE, "bytes=999990-")]).await;
        assert_eq!(
            (status, &headers[header::CONTENT_RANGE]),
            (206, &"bytes 999990-999999/1000000".parse().expect("ok"))
        );
        assert_eq!(body, content[999_990..]);
        let (status, ..) = ask(&at, &[(header::RANGE, "bytes=5-"), (header::IF_RANGE, "\"other\"")]).await;
        assert_eq!(status, 200, "another version: from the start");
        let (status, ..) = ask(&at, &[(header::RANGE, "bytes=5-"), (header::IF_RANGE, &etag)]).await;
        assert_eq!(status, 206);
        let (status, headers, body) = ask(&at, &[(header::RANGE, "bytes=1000000-")]).await;
        assert_eq!((status, body.len()), (416, 0));
        assert_eq!(headers[header::CONTENT_RANGE], "bytes */1000000");
        let (status, _, body) = ask(&at, &[(header::IF_NONE_MATCH, &etag)]).await;
        assert_eq!((status, body.len()), (304, 0));
    }
}
