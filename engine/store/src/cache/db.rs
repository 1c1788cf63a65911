//! The database, in which the cache can be queried.
//!
//! DuckDB lets one process write a file, or several read it, never both. So nobody keeps it open: whoever folds
//! segments into it or queries it holds a lock of our own for as long as that takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use duckdb::Connection;

use super::raw::{RawConnection, RawDatabase};
use super::schema;

/// Nothing is fetched from the network, and the cache does not crowd out the models.
const SETTINGS: &[(&str, &str)] = &[
    ("autoinstall_known_extensions", "false"),
    ("autoload_known_extensions", "false"),
    ("memory_limit", "1GB"),
    ("preserve_insertion_order", "false"),
];

/// Why the database cannot be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// Another program has it open, such as DuckDB's command line.
    InUse(String),
    /// It is damaged, or of a version that this one does not know.
    Unusable(String),
}

/// An open database. Connections are dropped before it.
pub(crate) struct Db {
    read: Mutex<Connection>,
    write: Mutex<WriteSide>,
    _database: RawDatabase,
    /// The version of its tables.
    pub(crate) version: i64,
}

/// The connections that write.
pub(crate) struct WriteSide {
    /// For everything but vectors.
    pub(crate) main: Connection,
    /// For vectors.
    pub(crate) vectors: RawConnection,
}

impl Db {
    /// Opens the database at `path`, or creates it there.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        Self::connect(path, false).map_err(OpenError::of)
    }

    fn connect(path: &Path, read_only: bool) -> Result<Self, String> {
        let text = path.to_str().ok_or("the path is not UTF-8, which DuckDB needs")?;
        let access: &[(&str, &str)] = if read_only { &[("access_mode", "READ_ONLY")] } else { &[] };
        let database = RawDatabase::open(Some(text), &[SETTINGS, access].concat())?;
        // SAFETY: all connections go into one `Db`, which drops them before the database.
        let (main, read, mut vectors) =
            unsafe { (database.connect()?, database.connect()?, database.connect_raw()?) };
        let version = prepare(&main, read_only).map_err(|e| e.to_string())?;
        vectors.execute(schema::VECTOR_STAGING)?;
        let write = Mutex::new(WriteSide { main, vectors });
        Ok(Self { read: Mutex::new(read), write, _database: database, version })
    }

    /// Why the database cannot be used: opens and reads all of it, changes nothing. `None` where it is intact, is
    /// not there, or another program has it open.
    pub(crate) fn damage(path: &Path) -> Option<String> {
        if !path.is_file() {
            return None;
        }
        let read = || Self::connect(path, true)?.read_everything().map_err(|e| e.to_string());
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

    /// Gives a database of version 1 the tables of this version, in which the segments of these names are
    /// folded as far as is said.
    ///
    /// # Errors
    /// What DuckDB says.
    pub(crate) fn upgrade(&mut self, folded: &[(String, u64)]) -> Result<(), String> {
        let side = self.write.get_mut().unwrap_or_else(PoisonError::into_inner);
        let rows: Vec<String> =
            folded.iter().map(|(name, to)| format!("INSERT INTO folded VALUES ('{name}', {to});")).collect();
        let (upgrade, rows) = (schema::UPGRADE, rows.concat());
        side.main.execute_batch(&format!("BEGIN; {upgrade} {rows} COMMIT;")).map_err(|e| e.to_string())?;
        self.version = schema::VERSION;
        Ok(())
    }

    pub(crate) fn read(&self) -> MutexGuard<'_, Connection> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> MutexGuard<'_, WriteSide> {
        self.write.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenError {
    fn of(why: String) -> Self {
        if is_lock_conflict(&why) { Self::InUse(why) } else { Self::Unusable(why) }
    }
}

/// Creates tables where there are none; the version of those that are there.
fn prepare(main: &Connection, read_only: bool) -> Result<i64, String> {
    let text = |e: duckdb::Error| e.to_string();
    let tables = "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'meta' AND NOT temporary";
    let there: i64 = main.query_row(tables, [], |r| r.get(0)).map_err(text)?;
    if there == 0 && !read_only {
        // In one transaction: each statement alone would be synced to disk.
        let (create, version) = (schema::CREATE, schema::VERSION);
        let sql = format!("BEGIN; {create} INSERT INTO meta VALUES ('version', {version}); COMMIT;");
        main.execute_batch(&sql).map_err(text)?;
    }
    let version: Option<i64> = main
        .query_row("SELECT max(value) FROM meta WHERE key = 'version'", [], |r| r.get(0))
        .map_err(text)?;
    main.execute_batch(schema::STAGING).map_err(text)?;
    match version {
        Some(version @ (schema::FIRST | schema::VERSION)) => Ok(version),
        Some(other) => Err(format!("the version of its tables is {other}, not {}", schema::VERSION)),
        None => Err("the version of its tables is missing".to_owned()),
    }
}

/// DuckDB refuses a file that, say, its own command line has open.
pub(crate) fn is_lock_conflict(why: &str) -> bool {
    let why = why.to_lowercase();
    why.contains("could not set lock")
        || why.contains("conflicting lock")
        || why.contains("used by another process")
}

/// Whether a failure shows that the file is damaged.
pub(crate) fn is_damage(why: &str) -> bool {
    let why = why.to_lowercase();
    ["corrupt", "checksum", "invalidated", "serializ"].iter().any(|word| why.contains(word))
}

/// Renames a database that cannot be used, so that another can take its place; gives the new name.
pub(crate) fn set_aside(path: &Path, why: &str) -> Result<PathBuf, String> {
    let seconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs());
    let name_of = |n: u32| -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{seconds}"));
        if n > 0 {
            name.push(format!("-{n}"));
        }
        name.into()
    };
    let aside = (0..).map(name_of).find(|p| !p.exists()).expect("numbers do not end");
    let wal = |path: &Path| -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(".wal");
        name.into()
    };
    let mut moved = false;
    for (from, to) in [(path.to_owned(), aside.clone()), (wal(path), wal(&aside))] {
        match fs::rename(&from, &to) {
            Ok(()) => moved = true,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(format!("{why}; and it cannot be renamed: {e}")),
        }
    }
    if moved { Ok(aside) } else { Err(why.to_owned()) }
}
