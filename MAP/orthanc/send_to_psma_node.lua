-- Orthanc sends each study to the PSMA node once no image has come for StableAge seconds, and again when more
-- images have come since. Only images are sent: the node keeps results that come back, and does nothing with them.
-- It is a job: one that failed since the node was away is seen at /jobs, and sent again by /jobs/ID/resubmit.
--
-- In orthanc.json: "LuaScripts": ["/etc/orthanc/send_to_psma_node.lua"] and
-- "DicomModalities": {"psma-node": ["PSMA_NODE", "10.0.0.7", 11112]}.

local NODE = 'psma-node'
local MODALITIES = {PT = true, NM = true, CT = true}
local SENT = '4211' -- our own metadata on the study: how many images of it the node has (Orthanc: 1024 to 65535)

local function imageSeries(studyId)
   local images, found = 0, {}
   for _, series in ipairs(ParseJson(RestApiGet('/studies/' .. studyId .. '/series'))) do
      if MODALITIES[series['MainDicomTags']['Modality']] then
         images = images + #series['Instances']
         table.insert(found, series['ID'])
      end
   end
   return images, found
end

local function alreadySent(studyId)
   for _, name in ipairs(ParseJson(RestApiGet('/studies/' .. studyId .. '/metadata'))) do
      if name == SENT then
         return tonumber(RestApiGet('/studies/' .. studyId .. '/metadata/' .. SENT)) or 0
      end
   end
   return 0
end

function OnStableStudy(studyId, tags, metadata)
   local images, series = imageSeries(studyId)
   if images > alreadySent(studyId) then
      RestApiPost('/modalities/' .. NODE .. '/store', DumpJson({Resources = series, Synchronous = false}, true))
      RestApiPut('/studies/' .. studyId .. '/metadata/' .. SENT, tostring(images))
   end
end
