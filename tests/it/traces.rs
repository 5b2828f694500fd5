//! What is traced, for tests that look for secrets in it.
//!
//! One subscriber serves all tests: with one for each, what another thread had met first was not traced at all.

use std::{
    cell::RefCell,
    io,
    sync::{Arc, Mutex, Once},
};

use tracing_subscriber::{
    Layer as _,
    filter::dynamic_filter_fn,
    fmt::{self, format::FmtSpan},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

thread_local! {
    static CURRENT: RefCell<Option<Traces>> = const { RefCell::new(None) };
}

/// Everything that is traced on the thread that subscribed, at all levels.
#[derive(Clone, Default)]
pub(crate) struct Traces(Arc<Mutex<Vec<u8>>>);

/// Ends the tracing of its thread.
pub(crate) struct Subscribed;

impl Traces {
    pub(crate) fn subscribe(&self) -> Subscribed {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let layer = fmt::layer()
                .with_span_events(FmtSpan::FULL)
                .with_ansi(false)
                .with_writer(|| current().unwrap_or_default())
                .with_filter(dynamic_filter_fn(|_, _| current().is_some()));
            tracing_subscriber::registry().with(layer).init();
        });
        CURRENT.set(Some(self.clone()));
        Subscribed
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// Whether an event that people look at, a warning or an error, has these words in it.
    pub(crate) fn warned(&self, words: &str) -> bool {
        let is_warning = |line: &&str| line.contains(" WARN ") || line.contains("ERROR ");
        self.text()
            .lines()
            .filter(is_warning)
            .any(|line| line.contains(words))
    }
}

fn current() -> Option<Traces> {
    // Threads trace while they end, too.
    CURRENT
        .try_with(|current| current.borrow().clone())
        .ok()
        .flatten()
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

impl io::Write for Traces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
