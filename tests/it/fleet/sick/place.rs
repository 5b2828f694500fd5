//! The stores of real processes.

use std::{fs, path::PathBuf, sync::Arc};

use apivideo_auth::store::{FileStore, RedisStore};

use super::{stores::Kind, *};
use crate::redis_server::RedisServer;

#[derive(Clone)]
pub(super) enum Place {
    Folder(PathBuf),
    Redis(Arc<RedisServer>),
}

impl Place {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Folder(_) => Kind::File,
            Self::Redis(_) => Kind::Redis,
        }
    }

    /// What a child is told.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Folder(path) => path.to_str().expect("a plain path").to_owned(),
            Self::Redis(server) => server.url(),
        }
    }

    pub(super) fn open(&self, builder: Builder) -> Builder {
        open(&self.text(), builder)
    }

    /// Lets the time pass for which a mark guards the refresh token.
    pub(super) fn settle_mark(&self, api: &FakeApi) {
        match self {
            Self::Folder(path) => {
                let entries = fs::read_dir(path).expect("the folder");
                let mut paths = entries.map(|entry| entry.expect("an entry").path());
                let record = paths.find(|path| path.extension().is_some_and(|end| end == "json"));
                let record = record.expect("a record");
                let text = fs::read(&record).expect("readable");
                let mut form: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
                if form["mark_settles"].is_u64() {
                    form["mark_settles"] = 1.into();
                    fs::write(record, form.to_string()).expect("writing");
                }
            }
            Self::Redis(server) => {
                let origin = api.url().replace(':', "_3a").replace('/', "_2f");
                let record = format!("{{apivideo-auth:default@{origin}}}:record");
                if !server
                    .command(&["HGET", &record, "mark_settles"])
                    .is_empty()
                {
                    server.command(&["HSET", &record, "mark_settles", "1"]);
                }
            }
        }
    }
}

pub(super) fn open(place: &str, builder: Builder) -> Builder {
    if place.starts_with("redis:") {
        builder.store(RedisStore::builder(place).build().expect("a good URL"))
    } else {
        builder.store(FileStore::in_folder(place))
    }
}
