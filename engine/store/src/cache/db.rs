//! The database behind the cache: opened late, set aside where damaged, in memory where taken.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use duckdb::Connection;
use fs4::fs_std::FileExt;

use super::raw::{RawConnection, RawDatabase};
use super::schema;

/// Nothing is fetched from the network, and the cache does not crowd out the models.
const SETTINGS: &[(&str, &str)] = &[
    ("autoinstall_known_extensions", "false"),
    ("autoload_known_extensions", "false"),
    ("memory_limit", "1GB"),
    ("preserve_insertion_order", "false"),
];

/// Where the rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// In the workspace's file.
    File,
    /// In the workspace's file, which may only be read.
    ReadOnly,
    /// In memory, because another process has the file open, or it cannot be used.
    Memory,
}

/// An open database. Fields are dropped in their order: connections before the database, and the
/// lock last.
pub(crate) struct Db {
    read: Mutex<Connection>,
    write: Mutex<WriteSide>,
    _database: RawDatabase,
    pub(crate) home: Home,
    _lock: Option<File>,
}

/// The connections that write.
pub(crate) struct WriteSide {
    /// For everything but vectors.
    pub(crate) main: Connection,
    /// For vectors.
    pub(crate) vectors: RawConnection,
}

impl Db {
    /// Opens the file; where another process has it, or nothing can be made of it, a database in
    /// memory. `None` only if DuckDB itself does not work.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        match Self::open_file(path) {
            Ok(db) => return Some(db),
            Err(why) => tracing::warn!(
                "{why}; this process works without the cache: it does not see finished stages, and \
                 what it computes is not kept for later runs"
            ),
        }
        match Self::connect(None, None) {
            Ok(db) => Some(db),
            Err(why) => {
                tracing::warn!("DuckDB does not work here, so there is no cache at all: {why}");
                None
            }
        }
    }

    fn open_file(path: &Path) -> Result<Self, String> {
        // Our own lock, because DuckDB's does not hold within a process and its refusal can be
        // told from damage only by its wording.
        let lock_path = path.with_file_name("cache.lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        if lock.as_ref().is_err_and(is_read_only) && path.is_file() {
            let text = path.to_str().ok_or("the path is not UTF-8, which DuckDB needs")?;
            return Self::connect(Some(text), None);
        }
        let lock = lock.map_err(|e| format!("cannot open {}: {e}", lock_path.display()))?;
        match FileExt::try_lock_exclusive(&lock) {
            Ok(true) => {}
            Ok(false) => return Err(format!("{} is in use by {}", path.display(), holder(&lock_path))),
            Err(e) => return Err(format!("cannot lock {}: {e}", lock_path.display())),
        }
        // For processes that find it locked; a lock holds without it.
        let _ = lock.set_len(0).and_then(|()| write!(&lock, "{}", std::process::id()));
        let text = path.to_str().ok_or("the path is not UTF-8, which DuckDB needs")?;
        let clone = || lock.try_clone().map_err(|e| e.to_string());
        match Self::connect(Some(text), Some(clone()?)) {
            Ok(db) => Ok(db),
            Err(why) if is_lock_conflict(&why) => Err(why),
            Err(why) => {
                set_aside(path, &why)?;
                Self::connect(Some(text), Some(clone()?))
            }
        }
    }

    /// Why the file cannot be used: opens and reads all of it, changes nothing. `None` where it is intact, is
    /// not there, or another process has it open.
    pub(crate) fn damage(path: &Path) -> Option<String> {
        if !path.is_file() {
            return None;
        }
        let lock = OpenOptions::new().write(true).open(path.with_file_name("cache.lock")).ok();
        if lock.as_ref().is_some_and(|lock| !matches!(FileExt::try_lock_exclusive(lock), Ok(true))) {
            return None;
        }
        let read = || -> Result<(), String> {
            let text = path.to_str().ok_or("the path is not UTF-8, which DuckDB needs")?;
            Self::connect(Some(text), None)?.read_everything().map_err(|e| e.to_string())
        };
        read().err().filter(|why| !is_lock_conflict(why))
    }

    /// Reads every row of every table; DuckDB compares each block with its checksum.
    fn read_everything(&self) -> Result<(), duckdb::Error> {
        let read = self.read();
        let mut tables = read.prepare("SELECT table_name FROM duckdb_tables() WHERE NOT temporary")?;
        let names: Vec<String> = tables.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for name in names {
            let sql = format!("SELECT count(*) FROM (SELECT hash(t) AS h FROM \"{name}\" t) WHERE h = 0");
            read.query_row(&sql, [], |row| row.get::<_, i64>(0))?;
        }
        Ok(())
    }

    fn connect(path: Option<&str>, lock: Option<File>) -> Result<Self, String> {
        // A file without a lock is one that cannot be written.
        let read_only = path.is_some() && lock.is_none();
        let access: &[(&str, &str)] = if read_only { &[("access_mode", "READ_ONLY")] } else { &[] };
        let database = RawDatabase::open(path, &[SETTINGS, access].concat())?;
        // SAFETY: all connections go into one `Db`, which drops them before the database.
        let (main, read, mut vectors) =
            unsafe { (database.connect()?, database.connect()?, database.connect_raw()?) };
        prepare(&main).map_err(|e| e.to_string())?;
        read.execute_batch(schema::WANTED).map_err(|e| e.to_string())?;
        vectors.execute(schema::VECTOR_STAGING)?;
        let home = match path {
            Some(_) if read_only => Home::ReadOnly,
            Some(_) => Home::File,
            None => Home::Memory,
        };
        Ok(Self {
            read: Mutex::new(read),
            write: Mutex::new(WriteSide { main, vectors }),
            _database: database,
            home,
            _lock: lock,
        })
    }

    pub(crate) fn read(&self) -> MutexGuard<'_, Connection> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> MutexGuard<'_, WriteSide> {
        self.write.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a file cannot be written where it is.
fn is_read_only(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem)
}

fn prepare(main: &Connection) -> Result<(), String> {
    let text = |e: duckdb::Error| e.to_string();
    let tables = "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'meta' AND NOT temporary";
    let there: i64 = main.query_row(tables, [], |r| r.get(0)).map_err(text)?;
    if there == 0 {
        // In one transaction: each statement alone would be synced to disk.
        let (create, version) = (schema::CREATE, schema::VERSION);
        let sql = format!("BEGIN; {create} INSERT INTO meta VALUES ('version', {version}); COMMIT;");
        main.execute_batch(&sql).map_err(text)?;
    }
    let version: Option<i64> = main
        .query_row("SELECT max(value) FROM meta WHERE key = 'version'", [], |r| r.get(0))
        .map_err(text)?;
    if version != Some(schema::VERSION) {
        let found = version.map_or("none".to_owned(), |v| v.to_string());
        return Err(format!("the version of its tables is {found}, not {}", schema::VERSION));
    }
    main.execute_batch(schema::STAGING).map_err(text)
}

/// The process that holds a lock, for people.
fn holder(lock: &Path) -> String {
    let pid = fs::read_to_string(lock).ok().and_then(|text| text.trim().parse::<u32>().ok());
    pid.map_or("another process".to_owned(), |pid| format!("another process ({pid})"))
}

/// DuckDB refuses a file that, say, its own command line has open.
fn is_lock_conflict(why: &str) -> bool {
    let why = why.to_lowercase();
    why.contains("could not set lock")
        || why.contains("conflicting lock")
        || why.contains("used by another process")
}

/// Renames a database that cannot be used, so that an empty one can take its place.
pub(crate) fn set_aside(path: &Path, why: &str) -> Result<PathBuf, String> {
    let seconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs());
    let aside = |p: &Path| -> PathBuf {
        let mut name = p.as_os_str().to_owned();
        name.push(format!(".damaged-{seconds}"));
        name.into()
    };
    let mut moved = false;
    let mut wal = path.as_os_str().to_owned();
    wal.push(".wal");
    for file in [path, Path::new(&wal)] {
        match fs::rename(file, aside(file)) {
            Ok(()) => moved = true,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(format!("{why}; and it cannot be renamed: {e}")),
        }
    }
    if !moved {
        return Err(why.to_owned());
    }
    let aside = aside(path);
    tracing::warn!(
        "the cache {} cannot be used ({why}): it is renamed to {}, and an empty one takes its place",
        path.display(),
        aside.display()
    );
    Ok(aside)
}
