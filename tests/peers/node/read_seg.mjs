// Reads a DICOM SEG as OHIF does, and writes the label map that a viewer would show.
//
//   node node_modules/.read_seg.cjs SOURCE.json SEG.dcm OUT
//
// SOURCE.json: the source image as a viewer knows it: {seriesInstanceUID, frameOfReferenceUID, rows, columns,
// rowCosines, columnCosines, pixelSpacing [between rows, between columns], slices: [{imageId, sopInstanceUID,
// position}]}. OUT gets one byte a voxel, (slice, row, column); the segments go to standard output as JSON.

import { webcrypto } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { adaptersSEG } from '@cornerstonejs/adapters';
import { cache, metaData } from '@cornerstonejs/core';

// What browsers have, and Node.js from version 19 on; Debian 12 has 18.
globalThis.crypto ??= webcrypto;
globalThis.CustomEvent ??= class extends Event {
  constructor(type, options = {}) {
    super(type, options);
    this.detail = options.detail ?? null;
  }
};

const [sourceFile, segFile, outFile] = process.argv.slice(2);
const source = JSON.parse(readFileSync(sourceFile, 'utf8'));
const byImageId = new Map(source.slices.map((slice) => [slice.imageId, slice]));

function imagePlane(slice) {
  return {
    rows: source.rows,
    columns: source.columns,
    rowCosines: source.rowCosines,
    columnCosines: source.columnCosines,
    imageOrientationPatient: [...source.rowCosines, ...source.columnCosines],
    imagePositionPatient: slice.position,
    pixelSpacing: source.pixelSpacing,
    rowPixelSpacing: source.pixelSpacing[0],
    columnPixelSpacing: source.pixelSpacing[1],
    frameOfReferenceUID: source.frameOfReferenceUID,
  };
}

function instance(slice) {
  return {
    SOPInstanceUID: slice.sopInstanceUID,
    SeriesInstanceUID: source.seriesInstanceUID,
    FrameOfReferenceUID: source.frameOfReferenceUID,
    ImagePositionPatient: slice.position,
    ImageOrientationPatient: [...source.rowCosines, ...source.columnCosines],
    Rows: source.rows,
    Columns: source.columns,
  };
}

const modules = {
  generalImageModule: (slice) => ({ sopInstanceUID: slice.sopInstanceUID }),
  generalSeriesModule: () => ({ seriesInstanceUID: source.seriesInstanceUID, modality: 'PT' }),
  imagePlaneModule: imagePlane,
  imagePixelModule: () => ({ samplesPerPixel: 1, photometricInterpretation: 'MONOCHROME2' }),
  instance,
};

metaData.addProvider((type, imageId) => {
  const slice = byImageId.get(imageId);
  return slice && modules[type] ? modules[type](slice) : undefined;
}, 1000);

async function main() {
  const file = readFileSync(segFile);
  const buffer = file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
  const imageIds = source.slices.map((slice) => slice.imageId);
  const read = await adaptersSEG.Cornerstone3D.Segmentation.createLabelmapsFromDICOMBuffer(imageIds, buffer, metaData);

  const sliceLength = source.rows * source.columns;
  const labels = new Uint8Array(imageIds.length * sliceLength);
  for (const images of read.labelMapImages) {
    images.forEach((image, i) => labels.set(image.voxelManager.getScalarData(), i * sliceLength));
  }
  writeFileSync(outFile, labels);
  const segments = (read.segMetadata.data ?? []).filter(Boolean).map((segment) => ({
    number: Number(segment.SegmentNumber),
    label: segment.SegmentLabel,
  }));
  process.stdout.write(JSON.stringify({ segments, overlapping: read.overlappingSegments }));
  cache.purgeCache();
}

main().catch((error) => {
  process.stderr.write(`${error.stack ?? error}\n`);
  process.exit(1);
});
