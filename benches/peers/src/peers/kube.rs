//! `kube-client`: its auth layer with an exec plugin, the only way to tokens that end. The plugin is this program.

use std::{
    env, fs,
    io::{Read, Write, stdout},
    net::TcpStream,
    path::PathBuf,
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use azure_core::time::to_rfc3339;
use http::{Request, Response};
use kube_client::{
    Config,
    client::{ConfigExt, middleware::AuthLayer},
    config::{AuthInfo, ExecConfig, ExecInteractiveMode},
};
use serde_json::{Value, json};
use tower::{BoxError, Layer};

use crate::{
    api::Api,
    peer::{Body, Client, Inner, ORIGIN, Peer, Tower},
    service::serve,
};

const PLUGIN: &str = "kube-plugin";

pub(crate) struct Kube;

impl Peer for Kube {
    const NAME: &'static str = "kube-client";
    const VERSION: &'static str = "kube-client 5.0.0";
    const ROTATES: bool = true;
    const NOTE: &'static str = "Takes new tokens from a program, run by the request that finds the token within 60 s of its \
                                end; the program keeps the refresh token. Does nothing about a 401.";
    const SHORT_LIFETIME: Duration = Duration::from_secs(61);

    type Client<S: Inner> = Auth<S>;

    async fn client<S: Inner>(api: &Api, inner: S) -> Self::Client<S> {
        let url = serve(api).await.expect("a port of the loopback");
        let seed = Arc::new(Seed::new(&api.mint().refresh_token));
        let program = env::current_exe().expect("this program has a path");
        let mut config = Config::new(ORIGIN.parse().expect("a good URI"));
        config.auth_info = AuthInfo {
            exec: Some(ExecConfig {
                api_version: Some("client.authentication.k8s.io/v1".to_owned()),
                command: Some(program.display().to_string()),
                args: Some(vec![PLUGIN.to_owned(), url, seed.0.display().to_string()]),
                interactive_mode: Some(ExecInteractiveMode::Never),
                ..ExecConfig::default()
            }),
            ..AuthInfo::default()
        };
        // It runs the plugin at once, and blocks.
        let layer = tokio::task::spawn_blocking(move || config.auth_layer())
            .await
            .expect("no panic inside");
        let layer = layer
            .expect("the plugin gets a token")
            .expect("the token is one that ends");
        Auth {
            client: Tower(layer.layer(inner)),
            seed,
        }
    }
}

#[derive(Clone)]
pub(crate) struct Auth<S: Inner> {
    client: Tower<<AuthLayer as Layer<S>>::Service>,
    #[expect(dead_code, reason = "the file lives as long as the last client")]
    seed: Arc<Seed>,
}

impl<S: Inner> Client for Auth<S> {
    async fn send(&mut self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        self.client.send(request).await
    }
}

/// The file in which the plugin keeps the refresh token.
struct Seed(PathBuf);

impl Seed {
    fn new(refresh_token: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("peers-kube-{}-{number}", process::id()));
        fs::write(&path, refresh_token).expect("a file can be written");
        Self(path)
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Acts as the plugin if this process was started as one; to be called before anything else.
pub(crate) fn plugin() -> Option<Result<(), BoxError>> {
    let mut arguments = env::args().skip(1);
    if arguments.next()? != PLUGIN {
        return None;
    }
    let (url, path) = (arguments.next()?, arguments.next()?);
    Some(credential(&url, path.into()))
}

fn credential(url: &str, path: PathBuf) -> Result<(), BoxError> {
    let response = refresh(url, &fs::read_to_string(&path)?)?;
    let text = |name: &str| {
        response[name]
            .as_str()
            .ok_or("the response is not complete")
    };
    fs::write(path, text("refresh_token")?)?;
    let lifetime = Duration::from_secs(
        response["expires_in"]
            .as_u64()
            .ok_or("the response has no lifetime")?,
    );
    let credential = json!({
        "kind": "ExecCredential",
        "apiVersion": "client.authentication.k8s.io/v1",
        "status": {
            "token": text("access_token")?,
            "expirationTimestamp": to_rfc3339(&(SystemTime::now() + lifetime).into()),
        },
    });
    Ok(stdout().write_all(credential.to_string().as_bytes())?)
}

fn refresh(url: &str, refresh_token: &str) -> Result<Value, BoxError> {
    let address = url
        .strip_prefix("http://")
        .ok_or("the API is not on the loopback")?;
    let form = format!("grant_type=refresh_token&refresh_token={refresh_token}");
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "POST /token HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{form}",
        form.len()
    )?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (head, body) = response
        .split_once("\r\n\r\n")
        .ok_or("the response has no end of its head")?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(serde_json::from_str(body)?),
        _ => Err("the refresh token was not taken".into()),
    }
}
