//! Under what a pair is stored.

use crate::{
    error::{Error, ErrorKind},
    origin::Origin,
};

/// Under what a pair is stored: the API's origin and the name of the account.
///
/// The origin keeps sandbox and production apart, the account two customers of one program; see
/// [`account`](crate::ApiVideoAuthLayerBuilder::account).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoreKey {
    origin: String,
    account: String,
}

impl StoreKey {
    /// A key for an account at an origin: that of the base URL that is given to the layer, however either is written.
    ///
    /// Host and scheme count in small letters, with the port. What is no origin, such as a name in a test, stays as it is.
    ///
    /// ```
    /// use apivideo_auth::store::StoreKey;
    ///
    /// let key = StoreKey::new("https://ws.api.video", "main")?;
    /// assert_eq!(key.origin(), "https://ws.api.video:443");
    /// assert_eq!(key, StoreKey::new("HTTPS://WS.api.video:443/", "main")?);
    /// assert_eq!(key.name(), "main@https_3a_2f_2fws.api.video_3a443");
    /// assert!(StoreKey::new("https://ws.api.video", "../main").is_err());
    /// # Ok::<(), apivideo_auth::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the account is not 1 to 64 letters, digits, `.`, `_` or `-`,
    /// or begins with a dot: it becomes a part of file names.
    pub fn new(origin: impl Into<String>, account: impl Into<String>) -> Result<Self, Error> {
        let (mut origin, account) = (origin.into(), account.into());
        let fits = (1..=64).contains(&account.len())
            && !account.starts_with('.')
            && account
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if !fits {
            let message = "an account's name is 1 to 64 letters, digits, `.`, `_` or `-` and begins with no dot";
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        // Whether tokens may go there is not asked: a layer that allows plain HTTP stores pairs, too.
        if let Ok(parsed) = Origin::parse(&origin, true) {
            origin = parsed.name();
        }
        Ok(Self { origin, account })
    }

    /// The key under which the spent seeds of this account lie. No account of a user's has such a name.
    pub(crate) fn spent_seeds(&self) -> Self {
        Self {
            origin: self.origin.clone(),
            account: format!("{}@seeds", self.account),
        }
    }

    /// Whether this is such a key. What lies there holds no secret, and is not encrypted: no change of keys may lose it.
    #[cfg(feature = "encrypted-store")]
    pub(super) fn is_of_spent_seeds(&self) -> bool {
        self.account.ends_with("@seeds")
    }

    /// The origin, with its port written out.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The account's name.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Account and origin as one name of small letters, digits, `.`, `_`, `-`, `+` and `@`, different for different keys: fit
    /// for a file's name, also where case is ignored.
    ///
    /// A capital letter of the account is a `+` and the small one. What is neither a small letter nor a digit, `.` or `-` in
    /// the origin is a `_` and its code. An account that Windows would take for a device (`con`, `nul.x`) has a `@` before it.
    #[must_use]
    pub fn name(&self) -> String {
        let mut name = String::new();
        if is_device(&self.account) {
            name.push('@');
        }
        for letter in self.account.chars() {
            if letter.is_ascii_uppercase() {
                name.push('+');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name.push('@');
        for byte in self.origin.bytes() {
            if byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-') {
                name.push(byte.into());
            } else {
                name.push_str(&format!("_{byte:02x}"));
            }
        }
        name
    }
}

/// Whether Windows takes a name that begins so for a device, whatever follows the first dot. One with capital letters is no
/// longer like it when they are escaped.
fn is_device(name: &str) -> bool {
    let base = name.split('.').next().unwrap_or_default();
    let numbered = ["com", "lpt"].iter().any(|device| {
        let number = base.strip_prefix(device).map(str::as_bytes);
        matches!(number, Some([b'0'..=b'9']))
    });
    numbered || matches!(base, "con" | "prn" | "aux" | "nul")
}
