// Draws a share of the faces: `node draw.mjs JSON` with the settings that `draw_faces` hands over.
//
// A face is a function of (style, seed, index). Each attribute comes from a hash of its own, so
// that attributes are independent and stay what they are when others are added. Once its picture is
// there, a face's index and attributes go to stdout as one line of JSON.

import { createHash } from 'node:crypto';
import { existsSync, renameSync, writeFileSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { deflateSync } from 'node:zlib';

const INK = '241d1a';
const BACKGROUND = {
  white: 'ffffff', blue: 'd3e6f8', green: 'd8f0d5', yellow: 'fbf0c4', pink: 'fbdde6',
  gray: 'c6c6c6',
};
const SKIN = { pale: 'fbe0d0', light: 'f0c09a', tan: 'd3935f', brown: 'a5673b', dark: '6e4a36' };
const HAIR = {
  black: INK, brown: '70421f', blond: 'e6c569', red: 'c8481c', gray: 'a9adb3', blue: '4a7be0',
  pink: 'e879b4',
};
const GLASSES = { red: 'd0142c', blue: '1b3fae', green: '12703a', purple: '7b2a9e' };
const CLOTHING = {
  red: 'e2665a', orange: 'f9a94a', yellow: 'f8e25c', green: '63cf74', blue: '6f90e0',
  purple: 'b06ce0',
};

// An attribute: `sets` are DiceBear's options that it sets, `values` the drawings (or the color) to
// choose from for each value, less their common `prefix`. With `share` it is there that often, and
// 'none' otherwise; `unless(face)` names the value where there is nothing to choose. Drawings on
// which other attributes could not be seen, or that are no human face, are left out.
const STYLES = {
  lorelei: {
    // Mouths of the color of black hair: on black beards DiceBear makes such mouths white.
    options: {
      scale: 112,
      translateX: 3,
      translateY: 4,
      eyesColor: ['000000'],
      noseColor: ['000000'],
      mouthColor: [INK],
      frecklesColor: ['000000'],
      hairAccessoriesColor: ['000000'],
      earringsColor: ['e8a800'],
    },
    attributes: {
      background: { sets: ['backgroundColor'], values: BACKGROUND },
      skin: { sets: ['skinColor'], values: SKIN },
      hair: {
        sets: ['hair'],
        prefix: 'variant',
        values: {
          bald: '25 28 34',
          short: '01 02 03 04 06 07 08 11 12 27 43 44 47',
          curly: '05 09 18 22 24 39',
          medium: '10 17 19 20 37',
          long: '13 16 23 32 35',
          tied: '14 26 29 30 31 33 36 38 42 46 48',
        },
      },
      hair_color: { sets: ['hairColor', 'eyebrowsColor'], values: HAIR },
      jaw: {
        sets: ['head'],
        prefix: 'variant',
        values: { heavy: '01', round: '02', angular: '03', pointed: '04' },
      },
      eyes: {
        sets: ['eyes'],
        prefix: 'variant',
        values: {
          wide: '02 04 07 10 14 21 23 24',
          narrow: '06 08 11 12 17 20',
          closed: '01 19 22',
          wink: '15 18',
          dots: '13 16',
          hearts: '09',
        },
      },
      eyebrows: {
        sets: ['eyebrows'],
        prefix: 'variant',
        values: {
          arched: '02 05 07 09',
          raised: '11 12',
          thick: '03 10',
          worried: '01',
          angry: '13',
          furrowed: '04 06',
          dots: '08',
        },
      },
      nose: {
        sets: ['nose'],
        prefix: 'variant',
        values: { long: '01', hooked: '05', round: '04', small: '02 03 06' },
      },
      mouth: {
        sets: ['mouth'],
        values: {
          smile: 'happy01 happy02 happy03 happy13',
          grin: 'happy05 happy06 happy07',
          tongue: 'happy09 sad08',
          open: 'happy08 sad01 sad02',
          frown: 'sad03 sad04 sad05 sad09',
          gritted: 'happy16 sad06 sad07',
        },
      },
      beard: {
        sets: ['beard'], prefix: 'variant', share: 1 / 3, values: { curly: '01', shaggy: '02' },
      },
      glasses: {
        sets: ['glasses'],
        prefix: 'variant',
        share: 1 / 3,
        values: { round: '01', sunglasses: '02', oval: '03', square: '04', reading: '05' },
      },
      glasses_color: { sets: ['glassesColor'], values: GLASSES, unless: without('glasses') },
      earrings: {
        sets: ['earrings'], prefix: 'variant', share: 1 / 3, values: { cuffs: '01', drop: '03' },
      },
      freckles: { sets: ['freckles'], prefix: 'variant', share: 1 / 3, values: { freckles: '01' } },
      flowers: { sets: ['hairAccessories'], share: 1 / 3, values: { flowers: 'flowers' } },
    },
  },

  'open-peeps': {
    // Hair is black here; the few drawings that could have another color are made so as well.
    options: { maskProbability: 0, headContrastColor: [INK] },
    attributes: {
      background: { sets: ['backgroundColor'], values: BACKGROUND },
      skin: { sets: ['skinColor'], values: SKIN },
      hair: {
        sets: ['head'],
        values: {
          bald: 'noHair1 noHair2 noHair3',
          mohawk: 'mohawk mohawk2',
          short: 'flatTop flatTopLong grayShort pomp shaved1 shaved2 shaved3 short1 short2 short3 '
            + 'short4 short5',
          curly: 'afro dreads1 dreads2 longCurly twists twists2',
          medium: 'bangs bangs2 grayMedium medium1 medium2 medium3 mediumBangs mediumBangs2 '
            + 'mediumBangs3',
          long: 'long longBangs mediumStraight',
          tied: 'bantuKnots bun bun2 buns cornrows cornrows2 grayBun',
          covered: 'hatBeanie hatHip hijab turban',
        },
      },
      expression: {
        sets: ['face'],
        values: {
          happy: 'cheeky cute eatingHappy lovingGrin1 lovingGrin2 smile smileBig smileLOL '
            + 'smileTeethGap',
          neutral: 'blank calm eyesClosed serious',
          sad: 'concerned solemn tired',
          angry: 'driven rage suspicious veryAngry',
          afraid: 'awe concernedFear fear hectic',
        },
      },
      facial_hair: {
        sets: ['facialHair'],
        share: 1 / 3,
        values: {
          beard: 'chin full full2 full3',
          goatee: 'goatee1 goatee2',
          moustache: 'moustache2 moustache3 moustache5 moustache6 moustache7',
        },
      },
      glasses: {
        sets: ['accessories'],
        share: 1 / 3,
        values: {
          glasses: 'glasses glasses2 glasses3 glasses4 glasses5',
          sunglasses: 'sunglasses sunglasses2',
        },
      },
      clothing_color: { sets: ['clothingColor'], values: CLOTHING },
    },
  },

  'pixel-art': {
    // Beards are left out because they hardly show, and hats because they hide the hair.
    options: {
      beardProbability: 0,
      hatProbability: 0,
      clothing: ['variant01'],
      eyesColor: ['5b7c8b'],
      accessoriesColor: ['e8a800'],
    },
    attributes: {
      background: { sets: ['backgroundColor'], values: BACKGROUND },
      skin: { sets: ['skinColor'], values: SKIN },
      hair: {
        sets: ['hair'],
        values: {
          bald: 'short07 short18 short20 short23',
          short: 'short01 short02 short03 short04 short06 short08 short09 short10 short12 short14 '
            + 'short15 short16 short17 short19 short22 short24',
          spiky: 'long15 short05 short11 short13 short21',
          long: 'long01 long04 long07 long09 long12 long17 long20 long21',
          tied: 'long05 long06 long10 long14 long18 long19',
        },
      },
      hair_color: { sets: ['hairColor'], values: HAIR },
      eyes: {
        sets: ['eyes'],
        prefix: 'variant',
        values: { wide: '01 05 07 08 09 10 11', narrow: '02 03 04 06 12' },
      },
      mouth: {
        sets: ['mouth'],
        values: {
          smile: 'happy07 happy08 happy09 happy10 happy11',
          open: 'happy01 happy12 happy13',
          flat: 'sad04 sad05 sad06 sad07',
          frown: 'sad01 sad02 sad03 sad08 sad09 sad10',
        },
      },
      mouth_color: { sets: ['mouthColor'], values: { brown: '8f4a3c', red: 'de0f0d' } },
      glasses: {
        sets: ['glasses'],
        share: 1 / 3,
        values: {
          glasses: 'light01 light02 light03 light05 light06 light07',
          sunglasses: 'dark01 dark02 dark03 dark05 dark06 dark07',
        },
      },
      glasses_color: { sets: ['glassesColor'], values: GLASSES, unless: without('glasses') },
      earrings: {
        sets: ['accessories'], prefix: 'variant', share: 1 / 3, values: { earrings: '01 02 03 04' },
      },
      clothing_color: { sets: ['clothingColor'], values: CLOTHING },
    },
  },
};

function without(attribute) {
  return (face) => (face[attribute] === 'none' ? 'none' : undefined);
}

// In [0, 1), and the same on every machine.
function uniform(...key) {
  return createHash('sha256').update(key.join('/')).digest().readUInt32BE() / 2 ** 32;
}

// The attributes of a face, and options that leave DiceBear nothing to choose.
function describe(style, seed, index) {
  const { attributes, options: fixed } = STYLES[style];
  const options = { ...fixed };
  const face = {};
  const drawings = {};
  for (const [name, attribute] of Object.entries(attributes)) {
    const { sets, prefix = '', values, share = 1, unless } = attribute;
    const random = (what) => uniform(style, seed, index, name, what);
    const choose = (what, among) => among[Math.floor(random(what) * among.length)];
    const there = random('there') < share;
    const value = unless?.(face) ?? (there ? choose('value', Object.keys(values)) : 'none');
    const drawing = value === 'none' ? 'none' : choose('drawing', values[value].split(' '));
    for (const option of sets) {
      options[`${option}Probability`] = there ? 100 : 0;
      if (value !== 'none') options[option] = [prefix + drawing];
    }
    face[name] = value;
    if (Object.values(values).some((among) => among.includes(' '))) {
      drawings[`${name}_drawing`] = drawing;
    }
  }
  return { face: { ...face, ...drawings }, options };
}

// An 8-bit RGB PNG of opaque RGBA pixels. No row filter: flat areas pack best as they are.
function png(rgba, size) {
  const rows = Buffer.alloc(size * (1 + 3 * size));
  let to = 0;
  for (let from = 0; from < rgba.length; from += 4) {
    if (from % (4 * size) === 0) to += 1; // the row's filter byte, 0
    rows[to++] = rgba[from];
    rows[to++] = rgba[from + 1];
    rows[to++] = rgba[from + 2];
  }
  const header = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0, 0, 0]); // 8 bits, RGB
  header.writeUInt32BE(size, 0);
  header.writeUInt32BE(size, 4);
  return Buffer.concat([
    Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(rows)),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

function chunk(type, data) {
  const body = Buffer.concat([Buffer.from(type), data]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(data.length, 0);
  body.copy(framed, 4);
  framed.writeUInt32BE(crc32(body), body.length + 4);
  return framed;
}

function crc32(data) {
  let crc = ~0;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

async function main({ packages, images, style, seed, size, num, first, step }) {
  const require = createRequire(join(packages, 'package.json'));
  const load = (name) => import(pathToFileURL(require.resolve(name)).href);
  const { createAvatar } = await load('@dicebear/core');
  const drawn = await load(`@dicebear/${style}`);
  const { Resvg } = await load('@resvg/resvg-js');
  for (let index = first; index < num; index += step) {
    const { face, options } = describe(style, seed, index);
    const path = join(images, `${String(index).padStart(6, '0')}.png`);
    if (!existsSync(path)) {
      const svg = createAvatar(drawn, { ...options, seed: '' }).toString();
      const font = { loadSystemFonts: false }; // there is no text, and looking for fonts takes long
      const picture = new Resvg(svg, { fitTo: { mode: 'width', value: size }, font });
      writeFileSync(`${path}.partial`, png(picture.render().pixels, size));
      renameSync(`${path}.partial`, path);
    }
    // Not process.stdout, which would go on unheard when the reader is gone.
    writeSync(1, `${JSON.stringify({ index, ...face })}\n`);
  }
}

main(JSON.parse(process.argv[2])).catch((error) => {
  process.stderr.write(`${String(error.message).split('\n')[0]}\n`);
  process.exitCode = 1;
});
