//! Reads `multipart/form-data`, as strictly as a server may.
//!
//! Written by hand, and without the code that writes forms in this crate: an error on one side is
//! not made good by the same error on the other.

use bytes::Bytes;
use memchr::memmem;

/// One field; a slice of the body, which is not copied.
pub(super) struct Field {
    pub(super) name: String,
    pub(super) file_name: Option<String>,
    pub(super) data: Bytes,
}

/// The fields of a form, or `None` if it is not well formed.
///
/// Nothing is forgiven: no preamble, no bare line feeds, nothing after the end.
pub(super) fn parse(content_type: &str, body: &Bytes) -> Option<Vec<Field>> {
    let (essence, parameters) = content_type.split_once(';')?;
    if !essence.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameter(parameters, "boundary")?;
    if !(1..=70).contains(&boundary.len()) {
        return None;
    }
    let delimiter = format!("\r\n--{boundary}");
    let finder = memmem::Finder::new(&delimiter);
    let mut fields = Vec::new();
    let mut rest = body.slice(
        body.starts_with(&delimiter.as_bytes()[2..])
            .then_some(delimiter.len() - 2)?..,
    );
    loop {
        if matches!(&rest[..], b"--" | b"--\r\n") {
            return Some(fields);
        }
        rest = rest.slice(rest.starts_with(b"\r\n").then_some(2)?..);
        let head = memmem::find(&rest, b"\r\n\r\n")?;
        let mut field = field(std::str::from_utf8(&rest[..head]).ok()?)?;
        rest = rest.slice(head + 4..);
        let end = finder.find(&rest)?;
        field.data = rest.slice(..end);
        fields.push(field);
        rest = rest.slice(end + delimiter.len()..);
    }
}

/// The head of a field; its bytes are filled in afterwards.
fn field(head: &str) -> Option<Field> {
    let disposition = head
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-disposition"))?
        .1;
    let (kind, parameters) = disposition.split_once(';')?;
    let name = parameter(parameters, "name")?;
    (kind.trim() == "form-data").then(|| Field {
        name,
        file_name: parameter(parameters, "filename"),
        data: Bytes::new(),
    })
}

/// One of `; name=value; name="value"`. Quotes and line ends are escaped as the HTML standard has it.
fn parameter(mut parameters: &str, wanted: &str) -> Option<String> {
    loop {
        let (name, rest) = parameters.split_once('=')?;
        let (value, rest) = match rest.strip_prefix('"') {
            Some(rest) => rest.split_once('"')?,
            None => rest.split_at(rest.find(';').unwrap_or(rest.len())),
        };
        if name.trim_matches([' ', ';']).eq_ignore_ascii_case(wanted) {
            return Some(
                value
                    .replace("%22", "\"")
                    .replace("%0D", "\r")
                    .replace("%0A", "\n"),
            );
        }
        parameters = rest;
    }
}
