//! Takes the images of an archive into the store.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use super::documents::{DOCKER_MANIFEST, DockerEntry, LAYOUT_INDEX, LayoutEntry, LayoutIndex, blob_member};
use super::members::{self, Member, Members, MembersError, TarIndex};
use super::spool::{self, SpoolError};
use crate::build::Compression;
use crate::build::documents::{manifest as write_manifest, oci_layer};
use crate::compression::{Decoder, Packed, Packing};
use crate::digest::{Algorithm, Descriptor, Digest, Hasher};
use crate::layer::LayerLimits;
use crate::manifest::{self, DOCUMENT_LIMIT_BYTES, Document, ManifestError, OCI_CONFIG};
use crate::platform::Platform;
use crate::reference::{Reference, ReferenceError};
use crate::store::{Area, BlobWriter, Lease, Store, StoreError};

/// An index may name an index; more levels than this are nonsense.
const MAX_INDEX_LEVELS: usize = 4;

/// Bytes copied at once.
const COPY_BYTES: usize = 128 * 1024;

/// Where an archive comes from.
pub enum LoadSource<'a> {
    /// A tar file, or a directory with an OCI layout.
    Path(&'a Path),
    /// A tar stream, such as standard input; it is kept in the store's directory while it is read.
    Reader(&'a mut dyn Read),
}

/// How to load.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// The name that the archive's one image gets, in place of what the archive says.
    pub name: Option<Reference>,
    /// Which platform's image is taken where the archive holds several.
    pub platform: Platform,
}

/// An image that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedImage {
    /// Its names.
    pub references: Vec<Reference>,
    /// Digest of what the names stand for, an index or a manifest.
    pub digest: Digest,
}

/// Why an archive was not loaded. No image got a name then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be opened.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive cannot be read as a tar file or directory.
    #[error("cannot load the image archive")]
    Members {
        /// Why.
        source: MembersError,
    },
    /// The archive, or a member of it, cannot be read or decompressed.
    #[error("cannot read {what}")]
    Read {
        /// The archive or member.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The archive or a layer of it is compressed in a way that is not read here.
    #[error("cannot read {what}: it is compressed with {method}")]
    Packing {
        /// The archive or member.
        what: String,
        /// The compression's name.
        method: &'static str,
    },
    /// More came out of a compressed archive or layer than is allowed.
    #[error("cannot read {what}: it unpacks to more than {limit_bytes} bytes")]
    TooLarge {
        /// The archive or member.
        what: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// Neither an OCI layout nor a Docker archive.
    #[error("the archive holds neither `index.json` nor `manifest.json`: it is not an image archive")]
    NotImages,
    /// The archive lists no image.
    #[error("the archive lists no images")]
    Empty,
    /// A member that another one names is not there.
    #[error("member `{member}` of the archive is missing")]
    Missing {
        /// The member.
        member: String,
    },
    /// A document is not what it should be.
    #[error("member `{member}` of the archive is malformed")]
    Document {
        /// The member.
        member: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A document is larger than its kind may be.
    #[error("member `{member}` of the archive has {size_bytes} bytes, more than the {limit_bytes} allowed")]
    DocumentTooLarge {
        /// The member.
        member: String,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A manifest or config cannot be used.
    #[error("cannot use member `{member}` of the archive")]
    Manifest {
        /// The member.
        member: String,
        /// Why.
        source: ManifestError,
    },
    /// A member has another content than what names it says.
    #[error("member `{member}` of the archive is corrupted: `{expected}` was announced, it is `{actual}`")]
    WrongDigest {
        /// The member.
        member: String,
        /// What was announced.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A member has another size than what names it says.
    #[error(
        "member `{member}` of the archive has {actual_bytes} bytes where {expected_bytes} were announced"
    )]
    WrongSize {
        /// The member.
        member: String,
        /// What was announced.
        expected_bytes: u64,
        /// What it has.
        actual_bytes: u64,
    },
    /// The config tells of other layers than the archive lists.
    #[error("the image config lists {diff_ids} layers where the archive lists {layers}")]
    LayerCount {
        /// Layers in the config.
        diff_ids: usize,
        /// Layers in the archive.
        layers: usize,
    },
    /// Nothing for this platform.
    #[error("the archive has no image for {wanted}, only for {offered}")]
    NoPlatform {
        /// What was asked for.
        wanted: Platform,
        /// What there is, as a list.
        offered: String,
    },
    /// Indexes name indexes without end.
    #[error("the archive nests indexes more than {MAX_INDEX_LEVELS} levels deep")]
    TooNested,
    /// The archive does not say what its image is called.
    #[error("the archive gives its image `{digest}` no name")]
    Unnamed {
        /// The image.
        digest: String,
    },
    /// One name was given for several images.
    #[error("cannot name the archive's images `{name}`: there are {count}")]
    ManyImages {
        /// The name given.
        name: String,
        /// How many images there are.
        count: usize,
    },
    /// The archive gives an image a name that is none.
    #[error("the archive names an image `{name}`")]
    BadName {
        /// The name.
        name: String,
        /// Why it is none.
        source: ReferenceError,
    },
    /// The store cannot take the image in.
    #[error("cannot keep the image in the image store")]
    Store {
        /// Why.
        source: StoreError,
    },
}

impl LoadError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotImages | Self::Members { source: MembersError::BadHeader { .. } } => Some(
                "`image load` reads what `ferrovirt image save`, `podman save`, `docker save`, \
                 `skopeo copy … oci-archive:FILE` and `buildah push … oci:DIR` write"
                    .to_owned(),
            ),
            Self::Open { path, .. } => Some(format!("check the path: `ls -l {}`", path.display())),
            Self::Packing { .. } => Some("unpack it first, or compress it with gzip or zstd".to_owned()),
            Self::Unnamed { .. } => Some("give it a name with `--tag NAME:TAG`".to_owned()),
            Self::ManyImages { .. } => {
                Some("load it without `--tag`: each image keeps its own name".to_owned())
            }
            Self::Members { source: MembersError::Truncated { .. } }
            | Self::WrongDigest { .. }
            | Self::WrongSize { .. }
            | Self::Missing { .. } => {
                Some("the archive is damaged or incomplete: save or copy it again".to_owned())
            }
            Self::Manifest { source, .. } => source.hint(),
            Self::Store { source } => source.hint(),
            // The rest says that the archive is not what an image archive has to be.
            _ => Some("the archive is broken: save the image again with the tool that wrote it".to_owned()),
        }
    }
}

impl From<MembersError> for LoadError {
    fn from(source: MembersError) -> Self {
        Self::Members { source }
    }
}

impl From<StoreError> for LoadError {
    fn from(source: StoreError) -> Self {
        Self::Store { source }
    }
}

/// Loads every image of an archive. Names are given when every image is there whole, one after the other: an archive that
/// is not what it should be names nothing. When the store fails between two names, the first keep what they were given.
///
/// Blocks for as long as copying takes: call it on a blocking thread. What is in the store already is not
/// copied again.
///
/// # Errors
///
/// See [`LoadError`].
pub fn load(
    store: &Store,
    source: LoadSource<'_>,
    request: &LoadRequest,
) -> Result<Vec<LoadedImage>, LoadError> {
    load_within(store, source, request, &LayerLimits::default())
}

/// [`load`] within other limits.
pub(super) fn load_within(
    store: &Store,
    source: LoadSource<'_>,
    request: &LoadRequest,
    limits: &LayerLimits,
) -> Result<Vec<LoadedImage>, LoadError> {
    let members = open(store, source, limits)?;
    let loader =
        Loader { store, lease: store.lease()?, members: &members, platform: &request.platform, limits };
    let found = loader.find()?;
    let named = name_images(found, request.name.as_ref())?;
    let mut loaded: Vec<LoadedImage> = Vec::with_capacity(named.len());
    for (image, references) in named {
        let digest = match &image {
            Found::Layout(entry) => loader.layout_image(&entry.descriptor)?,
            Found::Docker(entry) => loader.docker_image(entry)?,
        };
        loaded.push(LoadedImage { references, digest });
    }
    for image in &loaded {
        for reference in &image.references {
            store.tag(reference, &image.digest)?;
        }
    }
    Ok(loaded)
}

/// Opens an archive for access by name, unpacking it into a nameless file first where that is needed.
fn open(store: &Store, source: LoadSource<'_>, limits: &LayerLimits) -> Result<Members, LoadError> {
    match source {
        LoadSource::Reader(reader) => {
            // What comes through a pipe has no length to go by.
            spool(store, "the archive".to_owned(), reader, limits.uncompressed_bytes)
        }
        LoadSource::Path(path) => {
            if let Some(directory) = members::directory(path) {
                return Ok(directory);
            }
            let opening = |source| LoadError::Open { path: path.to_owned(), source };
            let file = File::open(path).map_err(opening)?;
            let what = format!("the archive `{}`", path.display());
            if !file.metadata().map_err(opening)?.is_file() {
                return spool(store, what, file, limits.uncompressed_bytes);
            }
            let reading = |source| LoadError::Read { what: what.clone(), source };
            let packing = Packed::new(&file).map_err(reading)?.packing;
            if packing == Packing::Known(Compression::None) {
                return Ok(Members::Tar(TarIndex::new(file)?));
            }
            // The look at the beginning moved on in the file.
            let limit_bytes = limits.uncompressed_for(file.metadata().map_err(opening)?.len());
            spool(store, what, File::open(path).map_err(opening)?, limit_bytes)
        }
    }
}

fn spool(store: &Store, what: String, reader: impl Read, limit_bytes: u64) -> Result<Members, LoadError> {
    let reading = |source| LoadError::Read { what: what.clone(), source };
    let packed = Packed::new(BufReader::new(reader)).map_err(reading)?;
    let compression = match packed.packing {
        Packing::Known(compression) => compression,
        Packing::Unknown(method) => return Err(LoadError::Packing { what, method }),
    };
    let unpacked = Decoder::new(compression, packed.stream).map_err(reading)?;
    let file = spool::nameless_copy(store, unpacked, limit_bytes).map_err(|error| match error {
        SpoolError::TooLarge => LoadError::TooLarge { what: what.clone(), limit_bytes },
        SpoolError::Read(source) => LoadError::Read { what: what.clone(), source },
        SpoolError::Store(source) => LoadError::Store { source },
    })?;
    Ok(Members::Tar(TarIndex::new(file)?))
}

/// An image as the archive lists it.
enum Found {
    Layout(LayoutEntry),
    Docker(DockerEntry),
}

impl Found {
    /// What tells one image from another.
    fn identity(&self) -> String {
        match self {
            Self::Layout(entry) => entry.descriptor.digest.to_string(),
            Self::Docker(entry) => entry.config.clone(),
        }
    }

    /// The names that the archive gives it.
    fn references(&self) -> Result<Vec<Reference>, LoadError> {
        match self {
            Self::Layout(entry) => Ok(entry.reference().into_iter().collect()),
            Self::Docker(entry) => entry
                .repo_tags
                .iter()
                .map(|name| name.parse().map_err(|source| LoadError::BadName { name: name.clone(), source }))
                .collect(),
        }
    }
}

/// Gives each image its names: those of the archive, or the one that the caller chose.
fn name_images(
    found: Vec<Found>,
    name: Option<&Reference>,
) -> Result<Vec<(Found, Vec<Reference>)>, LoadError> {
    let mut named: Vec<(Found, Vec<Reference>)> = Vec::with_capacity(found.len());
    for image in found {
        let references = if name.is_none() { image.references()? } else { Vec::new() };
        // An image with two names is listed twice in a layout.
        match named.iter_mut().find(|(known, _)| known.identity() == image.identity()) {
            Some((_, known)) => known.extend(references),
            None => named.push((image, references)),
        }
    }
    if let Some(name) = name {
        return match named.as_mut_slice() {
            [] => Err(LoadError::Empty),
            [(_, references)] => {
                references.push(name.clone());
                Ok(named)
            }
            several => Err(LoadError::ManyImages { name: name.to_string(), count: several.len() }),
        };
    }
    match named.iter().find(|(_, references)| references.is_empty()) {
        Some((image, _)) => Err(LoadError::Unnamed { digest: image.identity() }),
        None if named.is_empty() => Err(LoadError::Empty),
        None => Ok(named),
    }
}

/// One load under way.
struct Loader<'a> {
    store: &'a Store,
    /// Keeps what was taken in from being pruned before it has a name.
    lease: Lease,
    members: &'a Members,
    platform: &'a Platform,
    limits: &'a LayerLimits,
}

impl Loader<'_> {
    /// The images that the archive lists.
    fn find(&self) -> Result<Vec<Found>, LoadError> {
        let parsing = |member: &str, source| LoadError::Document { member: member.to_owned(), source };
        if let Some(member) = self.members.open(LAYOUT_INDEX)? {
            let bytes = read_document(LAYOUT_INDEX, member)?;
            let index: LayoutIndex =
                serde_json::from_slice(&bytes).map_err(|source| parsing(LAYOUT_INDEX, source))?;
            return Ok(index.manifests.into_iter().map(Found::Layout).collect());
        }
        if let Some(member) = self.members.open(DOCKER_MANIFEST)? {
            let bytes = read_document(DOCKER_MANIFEST, member)?;
            let entries: Vec<DockerEntry> =
                serde_json::from_slice(&bytes).map_err(|source| parsing(DOCKER_MANIFEST, source))?;
            return Ok(entries.into_iter().map(Found::Docker).collect());
        }
        Err(LoadError::NotImages)
    }

    fn member(&self, name: &str) -> Result<Member, LoadError> {
        self.members.open(name)?.ok_or_else(|| LoadError::Missing { member: name.to_owned() })
    }

    /// Takes in an image of an OCI layout, given as a manifest or an index. Returns the digest given.
    fn layout_image(&self, top: &Descriptor) -> Result<Digest, LoadError> {
        let mut current = top.clone();
        for _ in 0..MAX_INDEX_LEVELS {
            let member = blob_member(&current.digest);
            let bytes = read_document(&member, self.member(&member)?)?;
            check_size(&member, &current, bytes.len() as u64)?;
            check_digest(&member, &current.digest, Digest::of(current.digest.algorithm(), &bytes))?;
            let document = manifest::parse(&bytes, Some(&current.media_type))
                .map_err(|source| LoadError::Manifest { member, source })?;
            match document {
                Document::Image(image) => {
                    for blob in image.layers.iter().chain([&image.config]) {
                        self.layout_blob(blob)?;
                    }
                    self.store.put_blob(&self.lease, &bytes, current.digest.algorithm())?;
                    return Ok(top.digest.clone());
                }
                Document::Index(index) => {
                    self.store.put_blob(&self.lease, &bytes, current.digest.algorithm())?;
                    current = self.choose(&index)?;
                }
            }
        }
        Err(LoadError::TooNested)
    }

    /// The entry for the wanted platform.
    fn choose(&self, index: &manifest::Index) -> Result<Descriptor, LoadError> {
        let offered: Vec<String> = index
            .entries
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            // What builders attach to images has the platform `unknown/unknown`.
            .filter(|platform| platform.os != "unknown")
            .map(Platform::to_string)
            .collect();
        let chosen = index.entries_for(self.platform).next();
        chosen.map(|entry| entry.descriptor.clone()).ok_or_else(|| LoadError::NoPlatform {
            wanted: self.platform.clone(),
            offered: if offered.is_empty() { "no platform at all".to_owned() } else { offered.join(", ") },
        })
    }

    /// Copies a blob of an OCI layout.
    fn layout_blob(&self, blob: &Descriptor) -> Result<(), LoadError> {
        self.lease.add([&blob.digest])?;
        if self.store.has_blob(&blob.digest, Some(blob.size_bytes)) {
            return Ok(());
        }
        let name = blob_member(&blob.digest);
        let mut member = self.member(&name)?;
        check_size(&name, blob, member.size_bytes())?;
        let algorithm = blob.digest.algorithm();
        let writer = self.store.create(&self.lease, Area::Blobs, algorithm)?;
        let mut copy = BlobCopy::new(self.store, &name, &mut member, writer, Some(Hasher::new(algorithm)));
        copy.drain()?;
        copy.commit(Some(&blob.digest))?;
        Ok(())
    }

    /// Takes in an image of a Docker archive, as an OCI image: the config as it is, the layers as they are
    /// packed, and a manifest that the archive does not have. Returns the manifest's digest.
    fn docker_image(&self, entry: &DockerEntry) -> Result<Digest, LoadError> {
        let bytes = read_document(&entry.config, self.member(&entry.config)?)?;
        if let Some(claimed) = claimed_digest(&entry.config) {
            check_digest(&entry.config, &claimed, Digest::sha256_of(&bytes))?;
        }
        let parsed = manifest::parse_config(&bytes)
            .map_err(|source| LoadError::Manifest { member: entry.config.clone(), source })?;
        if parsed.diff_ids.len() != entry.layers.len() {
            return Err(LoadError::LayerCount {
                diff_ids: parsed.diff_ids.len(),
                layers: entry.layers.len(),
            });
        }
        let mut layers = Vec::with_capacity(entry.layers.len());
        for (name, diff_id) in entry.layers.iter().zip(&parsed.diff_ids) {
            layers.push(self.docker_layer(name, diff_id)?);
        }
        let config = self.put_document(OCI_CONFIG, &bytes)?;
        let manifest = write_manifest(&config, &layers);
        Ok(self.store.put_blob(&self.lease, &manifest, Algorithm::Sha256)?)
    }

    /// Copies a layer of a Docker archive, whose unpacked content must have the digest `diff_id`.
    fn docker_layer(&self, name: &str, diff_id: &Digest) -> Result<Descriptor, LoadError> {
        let reading = |source| LoadError::Read { what: format!("layer `{name}` of the archive"), source };
        let packing = Packed::new(self.member(name)?).map_err(reading)?.packing;
        let compression = match packing {
            Packing::Known(compression) => compression,
            Packing::Unknown(method) => {
                return Err(LoadError::Packing { what: format!("layer `{name}` of the archive"), method });
            }
        };
        let mut member = self.member(name)?;
        let size_bytes = member.size_bytes();
        let writer = self.store.create(&self.lease, Area::Blobs, Algorithm::Sha256)?;
        let mut copy = BlobCopy::new(self.store, name, &mut member, writer, None);
        let unpacked =
            copy.unpack(compression, diff_id.algorithm(), self.limits.uncompressed_for(size_bytes))?;
        check_digest(name, diff_id, unpacked)?;
        copy.drain()?;
        let digest = copy.commit(None)?;
        Ok(Descriptor { media_type: oci_layer(compression).to_owned(), digest, size_bytes })
    }

    fn put_document(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, LoadError> {
        Ok(crate::build::put_document(self.store, &self.lease, media_type, bytes)?)
    }
}

/// Copies a member into the store while somebody may look at the bytes that pass.
struct BlobCopy<'a> {
    store: &'a Store,
    name: &'a str,
    member: &'a mut Member,
    writer: BlobWriter,
    /// Where the digest has to be known before the copy may be put into the store.
    hasher: Option<Hasher>,
    /// Reading through [`Read`] loses which side failed; this keeps it.
    write_failure: Option<io::Error>,
}

impl<'a> BlobCopy<'a> {
    fn new(
        store: &'a Store,
        name: &'a str,
        member: &'a mut Member,
        writer: BlobWriter,
        hasher: Option<Hasher>,
    ) -> Self {
        Self { store, name, member, writer, hasher, write_failure: None }
    }

    fn failed(&mut self, source: io::Error) -> LoadError {
        match self.write_failure.take() {
            Some(failure) => LoadError::Store {
                source: self
                    .writer
                    .storage_full()
                    .unwrap_or_else(|| self.store.write_error("write", self.store.root(), None, failure)),
            },
            None => LoadError::Read { what: format!("member `{}` of the archive", self.name), source },
        }
    }

    /// Copies what decompression consumes, and returns the digest of what came out of it.
    fn unpack(
        &mut self,
        compression: Compression,
        algorithm: Algorithm,
        limit_bytes: u64,
    ) -> Result<Digest, LoadError> {
        let mut hasher = Hasher::new(algorithm);
        let mut unpacked_bytes: u64 = 0;
        let mut buffer = vec![0_u8; COPY_BYTES];
        let outcome = (|| {
            let mut decoder = Decoder::new(compression, BufReader::new(&mut *self))?;
            loop {
                let count = decoder.read(&mut buffer)?;
                unpacked_bytes += count as u64;
                if count == 0 || unpacked_bytes > limit_bytes {
                    return Ok(());
                }
                hasher.update(&buffer[..count]);
            }
        })();
        outcome.map_err(|source| self.failed(source))?;
        if unpacked_bytes > limit_bytes {
            return Err(LoadError::TooLarge {
                what: format!("layer `{}` of the archive", self.name),
                limit_bytes,
            });
        }
        Ok(hasher.finish())
    }

    /// Copies what is left.
    fn drain(&mut self) -> Result<(), LoadError> {
        let mut buffer = vec![0_u8; COPY_BYTES];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(source) => return Err(self.failed(source)),
            }
        }
    }

    /// Puts the copy into the store, if it is what `expected` names, and returns its digest.
    fn commit(self, expected: Option<&Digest>) -> Result<Digest, LoadError> {
        if let (Some(expected), Some(hasher)) = (expected, self.hasher) {
            check_digest(self.name, expected, hasher.finish())?;
        }
        let (digest, _) = self.writer.commit()?;
        Ok(digest)
    }
}

impl Read for BlobCopy<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.member.read(buffer)?;
        if let Err(error) = self.writer.write_all(&buffer[..count]) {
            let kind = error.kind();
            self.write_failure = Some(error);
            return Err(kind.into());
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}

/// Reads a member that is a JSON document.
fn read_document(name: &str, member: Member) -> Result<Vec<u8>, LoadError> {
    let size_bytes = member.size_bytes();
    if size_bytes > DOCUMENT_LIMIT_BYTES {
        let limit_bytes = DOCUMENT_LIMIT_BYTES;
        return Err(LoadError::DocumentTooLarge { member: name.to_owned(), size_bytes, limit_bytes });
    }
    let mut bytes = Vec::new();
    member
        .take(DOCUMENT_LIMIT_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|source| LoadError::Read { what: format!("member `{name}` of the archive"), source })?;
    Ok(bytes)
}

fn check_size(member: &str, descriptor: &Descriptor, actual_bytes: u64) -> Result<(), LoadError> {
    if descriptor.size_bytes == actual_bytes {
        return Ok(());
    }
    Err(LoadError::WrongSize {
        member: member.to_owned(),
        expected_bytes: descriptor.size_bytes,
        actual_bytes,
    })
}

fn check_digest(member: &str, expected: &Digest, actual: Digest) -> Result<(), LoadError> {
    if *expected == actual {
        return Ok(());
    }
    Err(LoadError::WrongDigest { member: member.to_owned(), expected: expected.clone(), actual })
}

/// The digest that a config's name in a Docker archive claims: `HEX.json` from Docker and podman,
/// `blobs/sha256/HEX` from newer Docker, `sha256:HEX` from kaniko.
fn claimed_digest(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    let hex = last.strip_suffix(".json").unwrap_or(last);
    let hex = hex.strip_prefix("sha256:").unwrap_or(hex);
    format!("sha256:{hex}").parse().ok()
}
