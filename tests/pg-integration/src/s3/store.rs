//! s3s-fs with what it lacks, and the manners of other stores.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

use super::conditional::{Conditional, precondition_failed};
use super::locks::{Locks, Wanted};

/// s3s-fs, with a [`Conditional`], multipart uploads that can be listed, and Object Lock.
pub(super) struct Store {
    files: FileSystem,
    root: PathBuf,
    conditional: Conditional,
    /// One conditional writer of a key at a time, since s3s-fs looks first and writes later.
    writing: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
    /// By bucket and id: what was begun and neither completed nor aborted, and the retention it will have.
    uploads: Mutex<HashMap<String, (MultipartUpload, Wanted)>>,
    locks: Arc<Locks>,
}

impl Store {
    pub(super) fn new(root: &Path, conditional: Conditional, locks: &Arc<Locks>) -> Self {
        let files = FileSystem::new(root).unwrap_or_else(|e| panic!("s3s-fs in {}: {e:?}", root.display()));
        let (writing, uploads) = (Mutex::default(), Mutex::default());
        Self { files, root: root.to_owned(), conditional, writing, uploads, locks: Arc::clone(locks) }
    }

    fn turn(&self, path: PathBuf) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.writing.lock().entry(path).or_default())
    }
}

impl Store {
    /// s3s-fs would create a bucket for an object, and calls a missing one a missing key.
    fn require(&self, bucket: &str) -> S3Result<()> {
        if self.root.join(bucket).is_dir() {
            Ok(())
        } else {
            Err(s3_error!(NoSuchBucket, "The specified bucket does not exist"))
        }
    }

    /// s3s-fs leaves ETags out of listings; clients that synchronise want them.
    async fn complete(&self, request: &S3Request<()>, bucket: &str, listed: &mut Option<Vec<Object>>) {
        for object in listed.iter_mut().flatten() {
            let key = object.key.clone().unwrap_or_default();
            let head = HeadObjectInput { bucket: bucket.to_owned(), key, ..Default::default() };
            // One that was removed meanwhile stays without.
            if let Ok(answer) = self.files.head_object(request.clone().map_input(|()| head)).await {
                object.e_tag = answer.output.e_tag;
            }
        }
    }
}

#[async_trait::async_trait]
impl S3 for Store {
    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        let (bucket, locked) = (req.input.bucket.clone(), req.input.object_lock_enabled_for_bucket == Some(true));
        let created = self.files.create_bucket(req).await?;
        if locked {
            self.locks.enable(&bucket);
        }
        Ok(created)
    }

    async fn get_object_lock_configuration(
        &self,
        req: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
        if !self.locks.enabled(&req.input.bucket) {
            return Err(s3_error!(ObjectLockConfigurationNotFoundError));
        }
        let enabled = Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED));
        let configuration = ObjectLockConfiguration { object_lock_enabled: enabled, ..Default::default() };
        Ok(S3Response::new(GetObjectLockConfigurationOutput { object_lock_configuration: Some(configuration) }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.require(&req.input.bucket)?;
        self.files.get_object(req).await
    }

    async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        let (head, bucket) = (req.clone().map_input(drop), req.input.bucket.clone());
        let mut answer = self.files.list_objects(req).await?;
        self.complete(&head, &bucket, &mut answer.output.contents).await;
        Ok(answer)
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let (head, bucket) = (req.clone().map_input(drop), req.input.bucket.clone());
        let mut answer = self.files.list_objects_v2(req).await?;
        self.complete(&head, &bucket, &mut answer.output.contents).await;
        Ok(answer)
    }

    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.require(&req.input.bucket)?;
        let lock = self.locks.of_put(&req.input)?;
        // s3s-fs knows two storage classes; what was asked for is in the proxy's log.
        req.input.storage_class = None;
        let path = self.root.join(&req.input.bucket).join(&req.input.key);
        let conditions = req.input.if_none_match.is_some() || req.input.if_match.is_some();
        let turn = self.turn(path.clone());
        let _turn = if conditions { Some(turn.lock().await) } else { None };
        let verdict = self.conditional.judge(conditions, path.exists())?;
        if !verdict.keep_conditions {
            (req.input.if_none_match, req.input.if_match) = (None, None);
        }
        let written = self.files.put_object(req).await?;
        self.locks.remember(lock);
        if verdict.refuse_afterwards { Err(precondition_failed()) } else { Ok(written) }
    }

    async fn copy_object(&self, mut req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        req.input.storage_class = None;
        self.files.copy_object(req).await
    }

    async fn create_multipart_upload(
        &self,
        mut req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.require(&req.input.bucket)?;
        req.input.storage_class = None;
        let (bucket, key) = (req.input.bucket.clone(), req.input.key.clone());
        let (mode, until) = (req.input.object_lock_mode.take(), req.input.object_lock_retain_until_date.take());
        let lock = self.locks.wanted((&bucket, &key), mode.as_ref(), until.as_ref())?;
        let created = self.files.create_multipart_upload(req).await?;
        if let Some(id) = created.output.upload_id.clone() {
            let initiated = Some(std::time::SystemTime::now().into());
            let upload =
                MultipartUpload { key: Some(key), upload_id: Some(id.clone()), initiated, ..Default::default() };
            self.uploads.lock().insert(format!("{bucket}/{id}"), (upload, lock));
        }
        Ok(created)
    }

    async fn complete_multipart_upload(
        &self,
        mut req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let path = self.root.join(&req.input.bucket).join(&req.input.key);
        let upload = format!("{}/{}", req.input.bucket, req.input.upload_id);
        let conditions = req.input.if_none_match.is_some() || req.input.if_match.is_some();
        let turn = self.turn(path.clone());
        let _turn = if conditions { Some(turn.lock().await) } else { None };
        let verdict = self.conditional.judge(conditions, path.exists())?;
        if !verdict.keep_conditions {
            (req.input.if_none_match, req.input.if_match) = (None, None);
        }
        let completed = self.files.complete_multipart_upload(req).await?;
        if let Some((_, lock)) = self.uploads.lock().remove(&upload) {
            self.locks.remember(lock);
        }
        if verdict.refuse_afterwards { Err(precondition_failed()) } else { Ok(completed) }
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let upload = format!("{}/{}", req.input.bucket, req.input.upload_id);
        let aborted = self.files.abort_multipart_upload(req).await?;
        self.uploads.lock().remove(&upload);
        Ok(aborted)
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = req.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        let of_bucket = format!("{}/", input.bucket);
        let uploads = self.uploads.lock();
        let ours = uploads.iter().filter(|(name, _)| name.starts_with(&of_bucket)).map(|(_, (upload, _))| upload);
        let listed = ours.filter(|upload| upload.key.as_ref().is_some_and(|key| key.starts_with(&prefix)));
        let mut listed: Vec<MultipartUpload> = listed.cloned().collect();
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: input.prefix,
            is_truncated: Some(false),
            uploads: Some(listed),
            ..Default::default()
        }))
    }

    async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.files.delete_bucket(req).await
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.files.head_bucket(req).await
    }

    async fn list_buckets(&self, req: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        self.files.list_buckets(req).await
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.files.get_bucket_location(req).await
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.files.head_object(req).await
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.files.delete_object(req).await
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.files.delete_objects(req).await
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        self.files.upload_part(req).await
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        self.files.list_parts(req).await
    }
}
