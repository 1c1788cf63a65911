//! The part of DuckDB's C interface that the crate does not offer: vectors by column chunks. (Its
//! appender takes no lists, and lists written as text would cost a hundred times as much.) The only
//! unsafe code of the store.

use std::ffi::{CStr, CString};
use std::ptr;

use duckdb::core::{DataChunkHandle, Inserter, LogicalTypeHandle, LogicalTypeId};
use duckdb::{Connection, ffi};

use super::head::head;

/// An open database. Connections to it must be dropped before it.
pub(crate) struct RawDatabase {
    database: ffi::duckdb_database,
}

// SAFETY: a DuckDB database is made to be used by several threads.
unsafe impl Send for RawDatabase {}
// SAFETY: as above; `&self` only connects.
unsafe impl Sync for RawDatabase {}

impl RawDatabase {
    /// Opens the database at `path`, or one in memory.
    pub(crate) fn open(path: Option<&str>, settings: &[(&str, &str)]) -> Result<Self, String> {
        let c_string = |s: &str| CString::new(s).map_err(|_| format!("{s:?} contains a NUL byte"));
        let path = c_string(path.unwrap_or(":memory:"))?;
        let settings: Vec<_> =
            settings.iter().map(|(k, v)| Ok((c_string(k)?, c_string(v)?))).collect::<Result<_, String>>()?;
        let mut config = ptr::null_mut();
        let mut database = ptr::null_mut();
        let mut error = ptr::null_mut();
        // SAFETY: all strings end in NUL and outlive the calls; config and error are freed below,
        // the error after its message was copied.
        unsafe {
            if ffi::duckdb_create_config(&mut config) != ffi::DuckDBSuccess {
                return Err("cannot configure the database".to_owned());
            }
            for (key, value) in &settings {
                if ffi::duckdb_set_config(config, key.as_ptr(), value.as_ptr()) != ffi::DuckDBSuccess {
                    tracing::debug!(?key, "this DuckDB does not know a setting");
                }
            }
            let state = ffi::duckdb_open_ext(path.as_ptr(), &mut database, config, &mut error);
            ffi::duckdb_destroy_config(&mut config);
            if state != ffi::DuckDBSuccess {
                let why = message(error);
                ffi::duckdb_free(error.cast());
                return Err(why);
            }
        }
        Ok(Self { database })
    }

    /// Connects by the crate.
    ///
    /// # Safety
    /// The connection must be dropped before the database.
    pub(crate) unsafe fn connect(&self) -> Result<Connection, String> {
        // SAFETY: the database is open.
        unsafe { Connection::open_from_raw(self.database) }.map_err(|e| e.to_string())
    }

    /// Connects by the C interface.
    ///
    /// # Safety
    /// The connection must be dropped before the database.
    pub(crate) unsafe fn connect_raw(&self) -> Result<RawConnection, String> {
        // SAFETY: the database is open, and the caller keeps it so.
        unsafe { RawConnection::new(self.database) }
    }
}

impl Drop for RawDatabase {
    fn drop(&mut self) {
        // SAFETY: opened in `open`, and nobody else has the pointer.
        unsafe { ffi::duckdb_close(&mut self.database) };
    }
}

/// Rows in a chunk: DuckDB's own vector size.
const CHUNK: usize = 2048;

/// A connection of the C interface. Used by one thread at a time.
pub(crate) struct RawConnection {
    connection: ffi::duckdb_connection,
}

// SAFETY: a DuckDB connection may move between threads; `&mut self` keeps it to one at a time.
unsafe impl Send for RawConnection {}

impl RawConnection {
    /// # Safety
    /// `database` must be open, and stay so until the connection is dropped.
    unsafe fn new(database: ffi::duckdb_database) -> Result<Self, String> {
        let mut connection = ptr::null_mut();
        // SAFETY: `database` is open, as promised by the caller.
        let state = unsafe { ffi::duckdb_connect(database, &mut connection) };
        if state != ffi::DuckDBSuccess {
            return Err("cannot connect to the database".to_owned());
        }
        Ok(Self { connection })
    }

    /// Runs statements that give no rows.
    pub(crate) fn execute(&mut self, sql: &str) -> Result<(), String> {
        let sql = CString::new(sql).map_err(|e| e.to_string())?;
        // SAFETY: an all-zero result is what the interface asks for; it is destroyed below on
        // success and failure alike, after its message was copied.
        unsafe {
            let mut result: ffi::duckdb_result = std::mem::zeroed();
            let state = ffi::duckdb_query(self.connection, sql.as_ptr(), &mut result);
            let outcome = if state == ffi::DuckDBSuccess {
                Ok(())
            } else {
                Err(message(ffi::duckdb_result_error(&mut result)))
            };
            ffi::duckdb_destroy_result(&mut result);
            outcome
        }
    }

    /// Appends rows of space, text and vector to the temporary table `embedding_in`.
    pub(crate) fn append_vectors(&mut self, rows: &[(&[u8; 32], &[u8; 32], &[f32])]) -> Result<(), String> {
        let mut appender = ptr::null_mut();
        // SAFETY: the connection is open and the name ends in NUL. Even where creation fails, the
        // appender must be destroyed, and tells why.
        let state = unsafe {
            ffi::duckdb_appender_create(self.connection, ptr::null(), c"embedding_in".as_ptr(), &mut appender)
        };
        let mut outcome = check(state, appender);
        for rows in rows.chunks(CHUNK) {
            if outcome.is_ok() {
                let chunk = vector_chunk(rows);
                // SAFETY: appender and chunk are alive; the chunk has the table's column types.
                let state = unsafe { ffi::duckdb_append_data_chunk(appender, chunk.get_ptr()) };
                outcome = check(state, appender);
            }
        }
        if outcome.is_ok() {
            // SAFETY: the appender is alive.
            outcome = check(unsafe { ffi::duckdb_appender_flush(appender) }, appender);
        }
        // SAFETY: created above and not used any more.
        unsafe { ffi::duckdb_appender_destroy(&mut appender) };
        outcome
    }
}

impl Drop for RawConnection {
    fn drop(&mut self) {
        // SAFETY: connected in `new`, and nobody else has the pointer.
        unsafe { ffi::duckdb_disconnect(&mut self.connection) };
    }
}

/// A chunk with the columns of `embedding_in`.
fn vector_chunk(rows: &[(&[u8; 32], &[u8; 32], &[f32])]) -> DataChunkHandle {
    let blob = || LogicalTypeHandle::from(LogicalTypeId::Blob);
    let float = LogicalTypeHandle::from(LogicalTypeId::Float);
    let chunk = DataChunkHandle::new(&[
        blob(),
        blob(),
        LogicalTypeHandle::from(LogicalTypeId::UBigint),
        LogicalTypeHandle::from(LogicalTypeId::Integer),
        LogicalTypeHandle::list(&float),
    ]);
    let total: usize = rows.iter().map(|(.., v)| v.len()).sum();
    let (spaces, texts) = (chunk.flat_vector(0), chunk.flat_vector(1));
    let (mut heads, mut dims) = (chunk.flat_vector(2), chunk.flat_vector(3));
    let mut lists = chunk.list_vector(4);
    let mut floats = lists.child(total);
    let mut offset = 0;
    for (i, (space, text, vector)) in rows.iter().enumerate() {
        spaces.insert(i, space.as_slice());
        texts.insert(i, text.as_slice());
        lists.set_entry(i, offset, vector.len());
        // SAFETY: the columns are UBIGINT and INTEGER, and a chunk holds `CHUNK` rows, `i` among
        // them; the child was reserved for `total` floats, of which these are the next.
        unsafe {
            heads.as_mut_slice_with_len::<u64>(rows.len())[i] = head(text);
            dims.as_mut_slice_with_len::<i32>(rows.len())[i] =
                i32::try_from(vector.len()).unwrap_or(i32::MAX);
            floats.as_mut_slice_with_len::<f32>(total)[offset..offset + vector.len()].copy_from_slice(vector);
        }
        offset += vector.len();
    }
    lists.set_len(total);
    chunk.set_len(rows.len());
    chunk
}

fn check(state: ffi::duckdb_state, appender: ffi::duckdb_appender) -> Result<(), String> {
    if state == ffi::DuckDBSuccess {
        return Ok(());
    }
    // SAFETY: the appender may be null, which the interface answers with null.
    Err(message(unsafe { ffi::duckdb_appender_error(appender) }))
}

/// Copies a message of the C interface.
fn message(text: *const std::os::raw::c_char) -> String {
    if text.is_null() {
        return "DuckDB failed without saying why".to_owned();
    }
    // SAFETY: not null, and the interface's messages end in NUL.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
