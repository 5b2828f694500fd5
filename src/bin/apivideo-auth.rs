//! Keeps the API key of api.video away from programs: a person logs in once, and programs use the pair in the store.

use std::{
    fs,
    io::{self, IsTerminal as _, Read as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use apivideo_auth::{
    ApiVideoAuthLayer, Bearer, Environment, Error, ErrorKind, GrantPreference, GrantType,
    TokenSource,
    store::{
        FileStore, Header, KeyringStore, RedisStore, StoreKey, Stored, TokenStore, TryLock, Version,
    },
};
use bytes::Bytes;
use clap::{Args, Parser, Subcommand, ValueEnum};
use http_body_util::Full;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::time;
use zeroize::Zeroizing;

type Builder = apivideo_auth::ApiVideoAuthLayerBuilder<
    apivideo_auth::middleware::SameService,
    apivideo_auth::middleware::Replay,
>;

/// A renewal under way is waited for, so that its pair is saved.
const SHUTDOWN: Duration = Duration::from_secs(90);

/// How long `logout` waits for a renewal of another process.
const LOCK_WAIT: Duration = Duration::from_secs(30);

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  somebody has to act: the message says how
  2  the command line is wrong
  3  nobody is logged in, or the login has ended: run `apivideo-auth login`
  4  a passing failure (network, API or store): try again";

/// Keeps the API key of api.video away from programs: log in once, and they use the tokens in the store.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Whose tokens, and where they are.
#[derive(Args)]
struct Place {
    /// `file` (in the user's state folder), `keyring`, `redis://…` or `rediss://…`. A URL with a password belongs in the
    /// environment, since every user of the machine can read command lines.
    #[arg(
        long,
        global = true,
        env = "APIVIDEO_AUTH_STORE",
        hide_env_values = true,
        default_value = "file"
    )]
    store: String,
    /// Which api.video.
    #[arg(long, global = true, value_enum, default_value = "production")]
    environment: Server,
    /// Another server, such as a fake one: scheme, host and port.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        conflicts_with = "environment"
    )]
    base_url: Option<String>,
    /// The name of the account in the store, as programs give it to `account`.
    #[arg(long, global = true, default_value = "default")]
    account: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Server {
    Production,
    Sandbox,
}

#[derive(Subcommand)]
enum Command {
    /// Log in with an API key, and put the tokens into the store.
    ///
    /// The key is asked for, or read from standard input if that is no terminal. It is not kept. A login may end other refresh
    /// tokens of the same key.
    Login {
        /// Read the key from this file instead.
        #[arg(long, value_name = "FILE")]
        api_key_file: Option<PathBuf>,
    },
    /// Print a good access token, renewed first if need be.
    Token {
        /// At least so many seconds must be left of it, or it is renewed. More than its life, an hour, renews each time.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        min_lifetime: u64,
    },
    /// Say what is in the store. Nothing is renewed.
    Status {
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Take the tokens out of the store, for all programs that share it.
    Logout,
}

/// What to say, and with which code to end.
type Failure = (String, u8);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = runtime
        .map_err(|error| (format!("no runtime: {error}"), 1))
        .and_then(|runtime| runtime.block_on(run(cli)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((message, code)) => {
            eprintln!("apivideo-auth: {message}");
            ExitCode::from(code)
        }
    }
}

async fn run(Cli { place, command }: Cli) -> Result<(), Failure> {
    match command {
        Command::Login { api_key_file } => login(&place, api_key_file).await,
        Command::Token { min_lifetime } => token(&place, Duration::from_secs(min_lifetime)).await,
        Command::Status { json } => status(&place, json).await,
        Command::Logout => logout(&place).await,
    }
}

async fn login(place: &Place, file: Option<PathBuf>) -> Result<(), Failure> {
    let builder = place.builder()?;
    let key = read_key(file).map_err(|error| (format!("no API key: {error}"), 1))?;
    // A login is one: what is stored is neither used nor kept, whosever it is.
    let builder = builder
        .grant_preference(GrantPreference::ApiKey)
        .replace_foreign_pair(true)
        .api_key(key.trim());
    let layer = builder.build().map_err(failure)?;
    let source = source(&layer)?;
    let result = async {
        let bearer = source.token().await?;
        match layer.subscribe().latest().map(|token| token.grant) {
            Some(GrantType::Store) => source.renew().await,
            _ => Ok(bearer),
        }
    };
    let result = result.await;
    let is_saved = layer.shutdown(SHUTDOWN).await;
    let bearer = result.map_err(failure)?;
    if !is_saved {
        return Err(("logged in, but the tokens could not be saved".to_owned(), 1));
    }
    println!(
        "Logged in as account `{}` at {}. The access token lives for {} more; programs renew it.\n\
         The API key may now be forgotten: no program needs it.",
        place.account,
        place.base_url(),
        span(left(&bearer)),
    );
    Ok(())
}

/// From the file, the terminal or standard input; never from the command line, which other users can read.
fn read_key(file: Option<PathBuf>) -> io::Result<Zeroizing<String>> {
    let mut key = Zeroizing::new(String::new());
    match file {
        Some(file) => *key = fs::read_to_string(file)?,
        None if io::stdin().is_terminal() => {
            *key = rpassword::prompt_password("API key (not shown): ")?
        }
        None => drop(io::stdin().take(64 * 1024).read_to_string(&mut key)?),
    }
    Ok(key)
}

async fn token(place: &Place, min_lifetime: Duration) -> Result<(), Failure> {
    let layer = place.builder()?.build().map_err(failure)?;
    let source = source(&layer)?;
    let result = async {
        let bearer = source.token().await?;
        match left(&bearer) < min_lifetime {
            // A usable token beats the error.
            true => Ok(source.renew().await.unwrap_or(bearer)),
            false => Ok(bearer),
        }
    };
    let result = result.await;
    layer.shutdown(SHUTDOWN).await;
    let bearer = result.map_err(failure)?;
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{}", bearer.expose()).and_then(|()| out.flush());
    written.map_err(|error| (format!("the token could not be written: {error}"), 1))
}

async fn status(place: &Place, json: bool) -> Result<(), Failure> {
    let stored = place.store()?.load(&place.key()?).await.map_err(failure)?;
    let is_logged_in = stored
        .as_ref()
        .is_some_and(|stored| stored.record.is_some());
    let header = stored.filter(|_| is_logged_in).map(|stored| stored.header);
    let expires_in = header
        .and_then(|header| header.expires_in)
        .map(|left| left.as_secs());
    let pause = header
        .and_then(|header| header.not_before)
        .map(|left| left.as_secs());
    let is_in_use = header
        .and_then(|header| header.mark)
        .is_some_and(|mark| !mark.settles_in.is_zero());
    if json {
        let status = serde_json::json!({
            "account": place.account,
            "origin": place.base_url(),
            "logged_in": is_logged_in,
            "access_token_expires_in": expires_in,
            "revision": header.map(|header| header.version.revision),
            "renewal_under_way": is_in_use,
            "no_calls_for": pause.filter(|left| *left > 0),
        });
        println!("{status}");
    } else if is_logged_in {
        println!(
            "Account `{}` at {}: logged in.",
            place.account,
            place.base_url()
        );
        match expires_in.filter(|left| *left > 0) {
            Some(left) => println!(
                "The access token lives for {} more.",
                span(Duration::from_secs(left))
            ),
            None => {
                println!("The access token has expired; the next program that needs one renews it.")
            }
        }
        if is_in_use {
            println!("A program is renewing it, or was stopped while it did.");
        }
    }
    match is_logged_in {
        true => Ok(()),
        false => Err((
            format!(
                "nobody is logged in as account `{}` at {}",
                place.account,
                place.base_url()
            ),
            3,
        )),
    }
}

/// Saves a record without tokens under a new family: no process writes its own pair back over that.
async fn logout(place: &Place) -> Result<(), Failure> {
    let (store, key) = (place.store()?, place.key()?);
    let until = time::Instant::now() + LOCK_WAIT;
    let mut lock = loop {
        match store.try_lock(&key).await.map_err(failure)? {
            TryLock::Locked(lock) => break lock,
            _ if time::Instant::now() < until => time::sleep(Duration::from_millis(100)).await,
            _ => return Err(("a program holds the store's lock; try again".to_owned(), 4)),
        }
    };
    let saved = async {
        let stored = store.load(&key).await?;
        let nothing = Version {
            family: fastrand::u64(1..),
            revision: 1,
        };
        let expected = stored.map(|stored| stored.header.version);
        lock.save(expected, Stored::new(Header::new(nothing), None))
            .await
    };
    let saved = saved.await;
    lock.unlock().await;
    saved.map_err(failure)?;
    println!(
        "The tokens of account `{}` at {} are no longer in the store.\n\
         Programs use the access token that they have until it ends, within the hour: the API has no way to revoke one.\n\
         A program that holds the API key logs in again by itself.",
        place.account,
        place.base_url(),
    );
    Ok(())
}

impl Place {
    fn base_url(&self) -> &str {
        match (&self.base_url, self.environment) {
            (Some(url), _) => url.trim_end_matches('/'),
            (None, Server::Production) => Environment::Production.base_url(),
            (None, Server::Sandbox) => Environment::Sandbox.base_url(),
        }
    }

    fn builder(&self) -> Result<Builder, Failure> {
        let builder = ApiVideoAuthLayer::builder()
            .base_url(self.base_url())
            .account(&self.account)
            .application("apivideo-auth", env!("CARGO_PKG_VERSION"));
        Ok(match self.store.as_str() {
            "file" => builder.store(FileStore::in_user_folder().map_err(failure)?),
            "keyring" => builder.store(KeyringStore::in_user_folder().map_err(failure)?),
            _ => builder.store(self.redis()?),
        })
    }

    fn store(&self) -> Result<Box<dyn TokenStore>, Failure> {
        Ok(match self.store.as_str() {
            "file" => Box::new(FileStore::in_user_folder().map_err(failure)?),
            "keyring" => Box::new(KeyringStore::in_user_folder().map_err(failure)?),
            _ => Box::new(self.redis()?),
        })
    }

    fn redis(&self) -> Result<RedisStore, Failure> {
        if !self.store.starts_with("redis://") && !self.store.starts_with("rediss://") {
            return Err((
                "--store is `file`, `keyring`, `redis://…` or `rediss://…`".to_owned(),
                2,
            ));
        }
        RedisStore::builder(&self.store).build().map_err(failure)
    }

    /// Under what the source of a program keeps the pair: its origin has the port written out.
    fn key(&self) -> Result<StoreKey, Failure> {
        // It checks both; the rest is to write them as the source does.
        self.builder()?.build().map_err(failure)?;
        let wrong = |_| ("--base-url is not a URL".to_owned(), 2);
        let uri: http::Uri = self.base_url().parse().map_err(wrong)?;
        let scheme = uri.scheme_str().unwrap_or("https");
        let port = uri
            .port_u16()
            .unwrap_or(if scheme == "http" { 80 } else { 443 });
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        StoreKey::new(format!("{scheme}://{host}:{port}"), &self.account).map_err(failure)
    }
}

fn source(layer: &ApiVideoAuthLayer) -> Result<TokenSource, Failure> {
    let connector = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .build();
    let client = Client::builder(TokioExecutor::new()).build(connector);
    Ok(tower::Layer::layer(layer, client).source::<Full<Bytes>>())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a program of its own, whose tokens are of this moment"
)]
fn left(bearer: &Bearer) -> Duration {
    bearer
        .expires_at()
        .duration_since(SystemTime::now())
        .unwrap_or_default()
}

fn span(left: Duration) -> String {
    match left.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}

/// What the error says, and the code that fits it.
fn failure(error: Error) -> Failure {
    use ErrorKind::{Configuration, NoCredentials, Refused};
    let code = match error.kind() {
        _ if error.is_transient() => 4,
        Configuration => 2,
        NoCredentials | Refused => 3,
        _ => 1,
    };
    let hint = match code {
        3 => "\nrun `apivideo-auth login`",
        _ => "",
    };
    (format!("{error}{hint}"), code)
}
