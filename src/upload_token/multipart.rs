//! The form of an upload, written around the bytes of a chunk without copying them.
//!
//! No crate for forms is used: a form is two short texts around bytes that must not be copied, and it
//! has to be there a second time if it is sent again.

use http::HeaderValue;

use crate::random;

/// Longer names are cut.
const MAX_NAME: usize = 1024;

/// Separates the fields of a form. It is in no file: 128 random bits are not met by accident.
#[derive(Debug)]
pub(super) struct Boundary(String);

impl Boundary {
    /// Letters and digits: they need no quotes in a header.
    pub(super) fn new() -> Self {
        Self(format!(
            "{:016x}{:016x}",
            random::number(),
            random::number()
        ))
    }

    /// What tells the server where the fields end.
    pub(super) fn content_type(&self) -> HeaderValue {
        HeaderValue::try_from(format!("multipart/form-data; boundary={}", self.0))
            .expect("letters and digits are a valid header value")
    }

    /// What goes before the bytes of the file. The video's id comes first, so that a server which
    /// reads as it goes knows it before the file.
    pub(super) fn head(&self, video_id: Option<&str>, file_name: &str) -> String {
        let boundary = &self.0;
        let id = video_id.map(|id| {
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"videoId\"\r\n\r\n{id}\r\n"
            )
        });
        let name = quoted(file_name);
        let file = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        id.unwrap_or_default() + &file
    }

    /// What goes after them.
    pub(super) fn tail(&self) -> String {
        format!("\r\n--{}--\r\n", self.0)
    }
}

/// Escaped as browsers do it, by the HTML standard, and cut at the limit. Other control characters have no place in a
/// header.
fn quoted(name: &str) -> String {
    let mut quoted = String::new();
    for letter in name.chars() {
        let mut plain = [0; 4];
        let escaped = match letter {
            '"' => "%22",
            '\r' => "%0D",
            '\n' => "%0A",
            // Some servers take what follows a backslash for escaped, the closing quote for example.
            '\\' => "_",
            letter if letter.is_control() => "_",
            letter => letter.encode_utf8(&mut plain),
        };
        if quoted.len() + escaped.len() > MAX_NAME {
            break;
        }
        quoted.push_str(escaped);
    }
    quoted
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures::stream;

    use super::*;

    #[test]
    #[cfg(feature = "file-store")]
    fn g28_machines_from_one_snapshot_have_two_boundaries() {
        let boundary = || {
            fastrand::seed(1);
            Boundary::new().0
        };
        assert_ne!(boundary(), boundary());
    }

    /// Another's decoder reads what the encoder wrote, whatever the name and the bytes are.
    #[tokio::test]
    async fn any_name_and_any_bytes_come_out_as_they_went_in() {
        let letters = [
            'a', '"', '\\', '\r', '\n', ';', '=', '%', '-', 'é', '🎬', '\0', ' ', '/',
        ];
        let mut random = fastrand::Rng::with_seed(5);
        for round in 0..500 {
            let name: String = (0..random.usize(..40))
                .filter_map(|_| random.choice(letters))
                .collect();
            let boundary = Boundary::new();
            let mut data: Vec<u8> = (0..random.usize(..300)).map(|_| random.u8(..)).collect();
            if round % 3 == 0 {
                // As near to a boundary as can be.
                data.extend_from_slice(&boundary.tail().as_bytes()[..random.usize(..34)]);
            }
            let id = (round % 2 == 0).then_some("vi4k0jvEUuaTdRAEjQ4Jfrgz");
            let form = [
                boundary.head(id, &name).as_bytes(),
                &data,
                boundary.tail().as_bytes(),
            ]
            .concat();

            let content_type = boundary.content_type();
            let content_type = multer::parse_boundary(content_type.to_str().unwrap()).unwrap();
            let body = stream::iter([Ok::<_, Infallible>(Bytes::from(form))]);
            let mut form = multer::Multipart::new(body, content_type);
            if let Some(id) = id {
                let field = form.next_field().await.unwrap().unwrap();
                assert_eq!((field.name(), field.file_name()), (Some("videoId"), None));
                assert_eq!(field.text().await.unwrap(), id);
            }
            let field = form.next_field().await.unwrap().unwrap();
            assert_eq!(
                (field.name(), field.file_name()),
                (Some("file"), Some(&*quoted(&name))),
                "{name:?}"
            );
            assert_eq!(field.bytes().await.unwrap(), data, "{name:?}");
            assert!(form.next_field().await.unwrap().is_none());
        }
    }

    #[test]
    fn long_names_are_cut_between_letters() {
        assert_eq!(quoted(&"é".repeat(600)), "é".repeat(512));
        assert_eq!(quoted(&"\"".repeat(600)), "%22".repeat(341));
    }
}
