//! The FUSE side: kernel requests become calls on the [`Tree`], its errors become errno. No policy.
//!
//! What is set here and why:
//! - Descriptors that can write bypass the page cache (`FOPEN_DIRECT_IO`): one `write(2)` is one
//!   request, so one frame; buffered writes would be split at page boundaries. Mappings still work
//!   (`FUSE_DIRECT_IO_ALLOW_MMAP`).
//! - Readers use the page cache, kept across opens while the store file is the one it was
//!   (`FOPEN_KEEP_CACHE`). No automatic invalidation and no writeback cache: the kernel keeps its own
//!   pages right for what passes through it, and other hosts' changes are seen at the next open.
//! - No flush at close (`FOPEN_NOFLUSH`): errors have reached `write` or `fsync` by then.
//! - File locks, `lseek` and `copy_file_range` stay with the kernel.

use crate::cache::lock;
use crate::pool::{Pool, guarded};
use crate::sys::{SetTime, Stat, Time, errno, is};
use crate::tree::{Caller, Changes, Entry, Listed, Tree};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the kernel may believe names and attributes: another host may change the store.
const TTL: Duration = Duration::from_secs(1);
/// Largest write the kernel sends in one request, so largest frame of an append.
const MAX_WRITE: u32 = 1 << 20;
/// Capabilities asked for one by one, because asking for an unknown one refuses all.
const CAPABILITIES: [InitFlags; 8] = [
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_MAX_PAGES,
];

/// A directory open for reading, with the list its offsets point into.
struct OpenDir {
    path: PathBuf,
    fd: OwnedFd,
    list: Mutex<Arc<Vec<Listed>>>,
}

/// A `readdirplus` under way.
struct Scan {
    ino: INodeNo,
    dir: Arc<OpenDir>,
    list: Arc<Vec<Listed>>,
    own: Stat,
}

impl Scan {
    /// Fills and sends the reply from entry `at` on. Gives the reply back, and where it stopped, if
    /// `lookup` turned back before anything was in it.
    fn fill(
        &self,
        tree: &Tree,
        from: u64,
        mut reply: ReplyDirectoryPlus,
        lookup: impl Fn(&dyn Fn() -> io::Result<Entry>) -> Option<io::Result<Entry>>,
    ) -> Option<(u64, ReplyDirectoryPlus)> {
        let mut empty = true;
        for at in from..self.list.len() as u64 + 2 {
            if at < 2 {
                // These two are not lookups; the kernel looks at their names alone.
                let name = if at == 0 { "." } else { ".." };
                if reply.add(
                    self.ino,
                    at + 1,
                    name,
                    &TTL,
                    &attributes(&self.own),
                    Generation(0),
                ) {
                    break;
                }
                empty = false;
                continue;
            }
            let name = &self.list[at as usize - 2].name;
            let entry = match lookup(&|| {
                tree.lookup_in(self.ino.0, &self.dir.path, self.dir.fd.as_fd(), name)
            }) {
                None if empty => return Some((at, reply)),
                None => break,
                // What is gone since the list was made is passed over.
                Some(Err(_)) => continue,
                Some(Ok(entry)) => entry,
            };
            let (attr, generation) = (attributes(&entry.stat), Generation(entry.node.generation));
            if reply.add(
                INodeNo(entry.node.ino),
                at + 1,
                name,
                &TTL,
                &attr,
                generation,
            ) {
                tree.inodes.forget(entry.node.ino, 1);
                break;
            }
            empty = false;
        }
        reply.ok();
        None
    }
}

/// The file system as the kernel's requests see it.
pub struct CellarFs {
    tree: Arc<Tree>,
    dirs: Mutex<HashMap<u64, Arc<OpenDir>>>,
    handles: AtomicU64,
}

impl CellarFs {
    pub fn new(tree: Arc<Tree>) -> CellarFs {
        CellarFs {
            tree,
            dirs: Mutex::default(),
            handles: AtomicU64::new(1),
        }
    }

    /// Does the work here if it is quick, else on a pool thread, and replies.
    fn answer<T>(
        &self,
        work: impl Fn(&Tree) -> io::Result<T> + Send + 'static,
        reply: impl FnOnce(io::Result<T>) + Send + 'static,
    ) {
        match Pool::attempt(|| work(&self.tree)) {
            Some(result) => reply(result),
            None => {
                let tree = self.tree.clone();
                self.tree
                    .shared
                    .pool
                    .run(move || reply(guarded(|| work(&tree))));
            }
        }
    }

    /// For requests that answer with nothing but success.
    fn answer_empty(
        &self,
        work: impl Fn(&Tree) -> io::Result<()> + Send + 'static,
        reply: ReplyEmpty,
    ) {
        self.answer(work, |result| match result {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(code(&e)),
        });
    }

    /// For requests that answer with an object.
    fn answer_entry(
        &self,
        work: impl Fn(&Tree) -> io::Result<Entry> + Send + 'static,
        reply: ReplyEntry,
    ) {
        self.answer(work, |result| match result {
            Ok(entry) => reply.entry(
                &TTL,
                &attributes(&entry.stat),
                Generation(entry.node.generation),
            ),
            Err(e) => reply.error(code(&e)),
        });
    }

    fn open_dir(&self, ino: u64) -> io::Result<u64> {
        let (path, fd) = (self.tree.inodes.dir(ino)?, self.tree.open_dir(ino)?);
        let handle = self.handles.fetch_add(1, Ordering::Relaxed);
        lock(&self.dirs).insert(
            handle,
            Arc::new(OpenDir {
                path,
                fd,
                list: Mutex::default(),
            }),
        );
        Ok(handle)
    }

    /// The list of an open directory, read anew from the start of a scan.
    fn listed(
        &self,
        ino: u64,
        handle: FileHandle,
        offset: u64,
    ) -> io::Result<(Arc<OpenDir>, Arc<Vec<Listed>>)> {
        let dir = lock(&self.dirs)
            .get(&handle.0)
            .cloned()
            .ok_or_else(|| errno(libc::EBADF))?;
        let mut list = lock(&dir.list);
        if offset == 0 {
            *list = Arc::new(self.tree.list(ino, dir.fd.as_fd())?);
        }
        let now = list.clone();
        drop(list);
        Ok((dir, now))
    }
}

/// The errno of an error; those without one are damage.
fn code(error: &io::Error) -> Errno {
    Errno::from_i32(error.raw_os_error().unwrap_or(libc::EIO))
}

fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
    }
}

fn to_system_time((seconds, nanos): Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
    match u64::try_from(seconds) {
        Ok(seconds) => UNIX_EPOCH + Duration::from_secs(seconds) + nanos,
        Err(_) => UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()) + nanos,
    }
}

fn to_set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::Omit,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(time)) => match time.duration_since(UNIX_EPOCH) {
            Ok(since) => SetTime::At((
                i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                since.subsec_nanos().into(),
            )),
            // fuser makes a time before the epoch of both parts taken off it: the parts come back.
            Err(before) => {
                let before = before.duration();
                SetTime::At((
                    -i64::try_from(before.as_secs()).unwrap_or(i64::MAX),
                    before.subsec_nanos().into(),
                ))
            }
        },
    }
}

fn file_type(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn attributes(stat: &Stat) -> FileAttr {
    // The protocol has the kernel's 32-bit device numbers: 12 bits major between 20 bits minor.
    let (major, minor) = (libc::major(stat.rdev), libc::minor(stat.rdev));
    FileAttr {
        ino: INodeNo(stat.ino),
        size: stat.size,
        blocks: stat.blocks,
        atime: to_system_time(stat.atime),
        mtime: to_system_time(stat.mtime),
        ctime: to_system_time(stat.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(stat.mode),
        perm: (stat.mode & 0o7777) as u16,
        nlink: u32::try_from(stat.nlink).unwrap_or(u32::MAX),
        uid: stat.uid,
        gid: stat.gid,
        rdev: (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
        blksize: 4096,
        flags: 0,
    }
}

fn reply_xattr(result: io::Result<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(code(&e)),
    }
}

fn open_flags(write: bool, keep: bool) -> FopenFlags {
    let mut flags = FopenFlags::FOPEN_NOFLUSH;
    flags.set(FopenFlags::FOPEN_DIRECT_IO, write);
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, keep);
    flags
}

fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

impl Filesystem for CellarFs {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            if config.add_capabilities(capability).is_err() {
                log::debug!("the kernel does not offer {capability:?}");
            }
        }
        if let Err(max) = config.set_max_write(MAX_WRITE) {
            log::debug!("largest write is {max}");
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.answer_entry(move |tree| tree.lookup(parent.0, &name), reply);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.tree.inodes.forget(ino.0, count);
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        self.answer(
            move |tree| tree.attributes(ino.0),
            |result| match result {
                Ok(stat) => reply.attr(&TTL, &attributes(&stat)),
                Err(e) => reply.error(code(&e)),
            },
        );
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = Changes {
            size,
            mode,
            uid,
            gid,
            atime: to_set_time(atime),
            mtime: to_set_time(mtime),
        };
        self.answer(
            move |tree| tree.set_attributes(ino.0, changes),
            |result| match result {
                Ok(stat) => reply.attr(&TTL, &attributes(&stat)),
                Err(e) => reply.error(code(&e)),
            },
        );
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.answer(
            move |tree| tree.readlink(ino.0),
            |result| match result {
                Ok(target) => reply.data(target.as_encoded_bytes()),
                Err(e) => reply.error(code(&e)),
            },
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (name, caller) = (name.to_owned(), caller(request));
        let device = libc::makedev(
            (rdev & 0xfff00) >> 8,
            (rdev & 0xff) | ((rdev >> 12) & 0xfff00),
        );
        self.answer_entry(
            move |tree| tree.mknod(parent.0, &name, mode, device, caller),
            reply,
        );
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (name, caller) = (name.to_owned(), caller(request));
        self.answer_entry(move |tree| tree.mkdir(parent.0, &name, mode, caller), reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.answer_empty(move |tree| tree.unlink(parent.0, &name), reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.answer_empty(move |tree| tree.rmdir(parent.0, &name), reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (name, target, caller) = (name.to_owned(), target.to_owned(), caller(request));
        self.answer_entry(
            move |tree| tree.symlink(parent.0, &name, target.as_os_str(), caller),
            reply,
        );
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        self.answer_empty(
            move |tree| tree.rename(parent.0, &name, new_parent.0, &new_name, flags.bits()),
            reply,
        );
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let name = new_name.to_owned();
        self.answer_entry(move |tree| tree.link(ino.0, new_parent.0, &name), reply);
    }

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (write, truncate) = (writes(flags.0), flags.0 & libc::O_TRUNC != 0);
        self.answer(
            move |tree| tree.open(ino.0, write || truncate, truncate),
            move |result| match result {
                Ok(keep) => reply.opened(FileHandle(0), open_flags(write, keep)),
                Err(e) => reply.error(code(&e)),
            },
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, caller) = (name.to_owned(), caller(request));
        let work = move |tree: &Tree| match tree.create(parent.0, &name, mode, caller) {
            // Somebody was faster; without O_EXCL that is no error.
            Err(e) if is(&e, libc::EEXIST) && flags & libc::O_EXCL == 0 => {
                let entry = tree.lookup(parent.0, &name)?;
                let truncate = flags & libc::O_TRUNC != 0;
                let opened = tree.open(entry.node.ino, writes(flags) || truncate, truncate);
                opened.inspect_err(|_| tree.inodes.forget(entry.node.ino, 1))?;
                Ok(Entry {
                    stat: Stat {
                        ino: entry.node.ino,
                        ..tree.attributes(entry.node.ino)?
                    },
                    ..entry
                })
            }
            created => created,
        };
        self.answer(work, move |result| match result {
            Ok(entry) => {
                let generation = Generation(entry.node.generation);
                reply.created(
                    &TTL,
                    &attributes(&entry.stat),
                    generation,
                    FileHandle(0),
                    open_flags(writes(flags), true),
                );
            }
            Err(e) => reply.error(code(&e)),
        });
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.answer(
            move |tree| tree.read(ino.0, offset, size as usize),
            |result| match result {
                Ok(data) => reply.data(&data),
                Err(e) => reply.error(code(&e)),
            },
        );
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write_back = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let append = flags.0 & libc::O_APPEND != 0 && !write_back;
        let kill_privileges = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let write = move |tree: &Tree, data: &[u8]| {
            let written = tree.write(ino.0, offset, data, append, write_back)?;
            if kill_privileges {
                tree.drop_privileges(ino.0)?;
            }
            Ok(written)
        };
        let answer = move |result: io::Result<u32>| match result {
            Ok(written) => reply.written(written),
            Err(e) => reply.error(code(&e)),
        };
        // A write that must be durable when it returns waits for the disk.
        let sync = flags.0 & libc::O_DSYNC != 0;
        match Pool::attempt(|| write(&self.tree, data)) {
            Some(Ok(written)) if sync => {
                let tree = self.tree.clone();
                self.tree
                    .shared
                    .pool
                    .run(move || answer(guarded(|| tree.sync(ino.0, true).map(|()| written))));
            }
            Some(result) => answer(result),
            None => {
                let (tree, data) = (self.tree.clone(), data.to_vec());
                self.tree.shared.pool.run(move || {
                    answer(guarded(|| {
                        let written = write(&tree, &data)?;
                        if sync {
                            tree.sync(ino.0, true).map(|()| written)
                        } else {
                            Ok(written)
                        }
                    }));
                });
            }
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.answer_empty(move |tree| tree.close(ino.0), reply);
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.answer_empty(move |tree| tree.sync(ino.0, data_only), reply);
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match guarded(|| self.open_dir(ino.0)) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(e) => reply.error(code(&e)),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (_, list) = match guarded(|| self.listed(ino.0, handle, offset)) {
            Ok(listed) => listed,
            Err(e) => return reply.error(code(&e)),
        };
        for at in offset..list.len() as u64 + 2 {
            let full = match at {
                0 => reply.add(ino, 1, FileType::Directory, "."),
                1 => reply.add(ino, 2, FileType::Directory, ".."),
                _ => {
                    let entry = &list[at as usize - 2];
                    let number = self
                        .tree
                        .inodes
                        .peek(ino.0, &entry.name)
                        .map_or(entry.ino, |node| node.ino);
                    reply.add(
                        INodeNo(number),
                        at + 1,
                        file_type(u32::from(entry.kind) << 12),
                        &entry.name,
                    )
                }
            };
            if full {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let listed = guarded(|| {
            Ok((
                self.listed(ino.0, handle, offset)?,
                self.tree.attributes(ino.0)?,
            ))
        });
        let ((dir, list), own) = match listed {
            Ok(listed) => listed,
            Err(e) => return reply.error(code(&e)),
        };
        let scan = Scan {
            ino,
            dir,
            list,
            own,
        };
        if let Some((at, reply)) =
            scan.fill(&self.tree, offset, reply, |lookup| Pool::attempt(lookup))
        {
            // The first entry of this batch is slow: the batch is made where one may wait.
            let tree = self.tree.clone();
            self.tree.shared.pool.run(move || {
                scan.fill(&tree, at, reply, |lookup| Some(guarded(lookup)));
            });
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        lock(&self.dirs).remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.answer_empty(move |tree| tree.sync_dir(ino.0), reply);
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.tree.statfs() {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(e) => reply.error(code(&e)),
        }
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.to_owned(), value.to_vec());
        self.answer_empty(
            move |tree| tree.set_xattr(ino.0, &name, &value, flags),
            reply,
        );
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let name = name.to_owned();
        self.answer(
            move |tree| tree.get_xattr(ino.0, &name),
            move |result| reply_xattr(result, size, reply),
        );
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.answer(
            move |tree| tree.list_xattr(ino.0),
            move |result| reply_xattr(result, size, reply),
        );
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.answer_empty(move |tree| tree.remove_xattr(ino.0, &name), reply);
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let range = i64::try_from(offset).and_then(|offset| Ok((offset, i64::try_from(length)?)));
        let Ok((offset, length)) = range else {
            return reply.error(Errno::EFBIG);
        };
        self.answer_empty(
            move |tree| tree.allocate(ino.0, mode, offset, length),
            reply,
        );
    }

    // The kernel does these itself once it is told that we do not; fuser would log each call.

    fn lseek(
        &self,
        _r: &Request,
        _ino: INodeNo,
        _h: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        _handle_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _handle_out: FileHandle,
        _offset_out: u64,
        _length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
